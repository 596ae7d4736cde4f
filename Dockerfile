# syntax=docker/dockerfile:1
FROM rust:1-slim-bookworm AS build
WORKDIR /src
# Queries are checked against .sqlx, so that building needs no database.
ENV SQLX_OFFLINE=true
COPY . .
# The cache mounts are not part of the image, so the binary is copied out in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin overdue \
    && install -D target/release/overdue /out/overdue

FROM debian:bookworm-slim
# For TLS to the broker and the database.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/overdue /usr/local/bin/overdue
# Any unprivileged id works: Overdue writes no files.
USER 10001:10001
ENTRYPOINT ["overdue"]
CMD ["run"]
