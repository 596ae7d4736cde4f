-- What each pod does: pods that close or sweep share `close_rate`. Pods of before this column count as closing.
ALTER TABLE pods ADD COLUMN roles text[] NOT NULL DEFAULT '{close}';
