# `make` lists the targets; `make check` is the gate, which CI runs.
# PostgreSQL and RabbitMQ come from dev/with-services, unless DATABASE_URL and AMQP_URL name yours.

.DEFAULT_GOAL := help
.PHONY: help demo test lint deny sqlx sqlx-check schema postgres-versions poolers mixes bench bench-quick flood fuzz chaos cluster checker-selftest outage takeover soak upgrade compare trials trials-release check nightly toolchain clean-dev

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: toolchain ## watch orders being placed, paid and closed (KEEP=1 leaves everything up)
	cargo build --quiet --locked --bins --example demo
	dev/with-services cargo run --quiet --locked --example demo

# More threads than processors: these tests wait for deadlines most of the time.
test: toolchain ## all tests, against a real PostgreSQL and RabbitMQ
	dev/with-services cargo test --locked --workspace -- --test-threads=6

# Twice, because a pooler is recognized in two ways: it refuses start-up parameters, or is configured to drop them.
POOLED := cargo test --locked --test promises -- --test-threads=6 works_through_a_pooler
poolers: toolchain ## promises through PgBouncer, in transaction and in session mode (installs it)
	dev/with-services dev/with-pooler transaction $(POOLED) conserves_stock never_closes_a_paid_order one_subscriber_stops_no_other \
	  closes_whole_or_not_at_all survives_the_loss_of_a_pod
	IGNORE=extra_float_digits,options dev/with-services dev/with-pooler session $(POOLED) closes_unpaid_orders_on_time

mixes: toolchain ## one bad order stops no other: drawn mixes (MIXES=1000), and with pods and broker (POD_MIXES=30, SEED=1)
	RUST_BACKTRACE=0 MIXES=$(or $(MIXES),1000) POD_MIXES=$(or $(POD_MIXES),30) SEED=$(or $(SEED),1) dev/with-services \
	  cargo test --locked --test promises -- one_bad_order_never_stops_another

# The linters share a target folder: dependencies are checked once, and target/debug stays as it is.
lint deny: export CARGO_TARGET_DIR := target/lint
lint: deny ## format, clippy, documentation, licences; warnings are errors
	dev/toolchain rustfmt clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --locked

deny: toolchain ## licences, bans and sources of the dependencies; advisories if their database can be fetched
	dev/deny

sqlx: toolchain ## rewrite .sqlx after a change to a query or a migration
	dev/sqlx write

sqlx-check: toolchain ## check that .sqlx matches the queries and migrations
	dev/sqlx check

schema: toolchain ## rewrite migrations/schema.txt after a change to a migration or a function
	OVERDUE_WRITE_SCHEMA=1 dev/with-services cargo test --quiet --locked --test promises -- the_committed_schema

postgres-versions: toolchain ## promises about the schema and rights on PostgreSQL 14 to 18, from npm (VERSIONS="14 18")
	dev/postgres-versions $(VERSIONS)

bench: toolchain ## the standard measurements on a release build: medians, a page in target/bench.html (RUNS=3; long)
	cargo build --quiet --locked --release --bins
	dev/with-services target/release/overdue bench standard --runs $(or $(RUNS),3) --report target/bench.html

# With the example, dependencies get the features that the tests need, too: the gate builds them once.
bench-quick: toolchain ## a few minutes: fails if ratios show a large regression, on any machine
	cargo build --quiet --locked --bins --examples
	dev/with-services target/debug/overdue bench quick

MESSAGES ?= 100000
flood: toolchain ## many bad messages against two pods (MESSAGES=100000): how fast they are parked, how late orders are
	BAD_MESSAGES=$(MESSAGES) dev/with-services cargo test --locked --release --test promises -- --nocapture \
	  a_flood_of_bad_messages

fuzz: toolchain ## search for inputs that break a decoder (RUNS=1000000 each; installs cargo-fuzz if it is missing)
	dev/fuzz run $(or $(RUNS),1000000)

# The trials kill and restart servers, so they start their own, from the distribution's packages; RABBITMQ_HOME and
# ERLANG_BIN name another version's folders (…/rabbitmq_server-4.3.6 and the folder of erl).
chaos: trials ## faults drawn from a seed, and every promise checked (ROUNDS=20 NODES=1, or 3 for a cluster; SEED=1, or at random; SELFTEST=1 POOLER=transaction)
	$(if $(POOLER),dev/services install-pooler)
	target/debug/trials chaos --rounds $(or $(ROUNDS),20) --nodes $(or $(NODES),1) $(if $(SEED),--seed $(SEED)) $(if $(SELFTEST),--selftest) $(if $(POOLER),--pooler $(POOLER))

cluster: trials ## three brokers: a node killed, a leader killed, a node cut off, a rolling restart, under load (TIMES=3)
	target/debug/trials cluster --times $(or $(TIMES),3)

checker-selftest: trials ## commit what a faulty service might do wrong, and check that the trials' checker finds it
	target/debug/trials checker-selftest

upgrade: toolchain ## pods of the previous build (the commit in migrations/baseline) are replaced by this one's under load
	dev/build-commit $$(cat migrations/baseline) target/commits/overdue-previous
	@$(MAKE) --no-print-directory trials
	target/debug/trials upgrade --previous target/commits/overdue-previous

compare: toolchain ## this build and that of another COMMIT do the same work in turns: ratios (PAIRS=7 ONLY=burst,steady,place,pods,depth,paying,items)
	dev/build-commit $(or $(COMMIT),$$(cat migrations/baseline)) target/commits/overdue-release --release
	@$(MAKE) --no-print-directory trials-release
	OVERDUE_BINARY=target/release/overdue target/debug/trials compare --with target/commits/overdue-release \
	  --pairs $(or $(PAIRS),7) $(if $(ONLY),--only $(ONLY))

# These measure, so the pods are a release build; the driver need not be.
outage takeover soak: export OVERDUE_BINARY := target/release/overdue
outage: trials-release ## broker, database or network away for minutes, and how soon all is caught up (MINUTES=3)
	target/debug/trials outage --minutes $(or $(MINUTES),3)

takeover: trials-release ## a pod, a leader or a broker is lost: how soon others take over (TIMES=5)
	target/debug/trials takeover --times $(or $(TIMES),5)

soak: trials-release ## steady load for a long time: nothing grows, shown in a plot (MINUTES=10)
	target/debug/trials soak --minutes $(or $(MINUTES),10)

trials-release: trials
	cargo build --quiet --locked --release --bin overdue

trials: toolchain
	dev/services install
	cargo build --quiet --locked --bins --examples --package overdue --package overdue-trials # see bench-quick

check: ## the gate: lint, sqlx-check, test, a short form of the trials and of the measurements; prints how long each took
	dev/with-services dev/stages lint sqlx-check test poolers "mixes MIXES=50 POD_MIXES=2" bench-quick \
	  "chaos SELFTEST=1 ROUNDS=5 SEED=5854" # these five draw 22 of the 30 kinds of faults

nightly: ## what takes too long for the gate (about 80 minutes); goes on after a failure, prints how long each took
	KEEP_GOING=1 dev/with-services dev/stages mixes flood "chaos ROUNDS=20" "chaos ROUNDS=5 NODES=3" "chaos ROUNDS=10 POOLER=transaction" "cluster TIMES=1" \
	  upgrade "takeover TIMES=1" "outage MINUTES=1" "soak MINUTES=5" "fuzz RUNS=100000"

toolchain:
	@dev/toolchain

clean-dev: ## stop this checkout's PostgreSQL and RabbitMQ and delete their data
	dev/services stop --wipe
