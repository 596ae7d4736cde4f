//! Nothing in our SQL resolves through a name that somebody else can define: a role that may create functions in the schema
//! would run its code with the service's rights.

use std::fs;
use std::path::Path;

use crate::harness::World;

/// What looks like a call and is syntax. `unnest` with several arrays is syntax too; see [`calls`].
const SYNTAX: &[&str] = &[
    "all",
    "any",
    "array",
    "as",
    "by",
    "cast",
    "check",
    "coalesce",
    "conflict",
    "distinct",
    "exists",
    "extract",
    "filter",
    "from",
    "greatest",
    "in",
    "into",
    "join",
    "key",
    "least",
    "lateral",
    "nullif",
    "on",
    "or",
    "and",
    "not",
    "over",
    "row",
    "rows",
    "select",
    "table",
    "operator",
    "then",
    "using",
    "values",
    "when",
    "where",
    "case",
    "else",
    "returning",
    "set",
    "materialized",
    "if",
];

/// Names that are called without a schema.
fn calls(sql: &str) -> Vec<String> {
    let plain = without_texts(sql);
    let mut found = Vec::new();
    for (at, _) in plain.match_indices('(') {
        let before = plain[..at].trim_end();
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '"';
        let start = before.rfind(|c: char| !word(c)).map_or(0, |end| end + 1);
        let (name, ahead) = (before[start..].to_lowercase(), before[..start].trim_end());
        let qualified = ahead.ends_with('.');
        // `INSERT INTO orders (…)`, `… AS items (…)`, `REFERENCES orders (…)`; `WITH due AS (…)` has its name before AS.
        let introduced = ["into", "as", "references", "on", "table"]
            .iter()
            .any(|word| ahead.to_lowercase().split_whitespace().last() == Some(*word));
        let no_name = name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit());
        if no_name
            || qualified
            || introduced
            || SYNTAX.contains(&name.as_str())
            || name.starts_with("overdue_")
        {
            continue;
        }
        if name == "unnest" && arguments(&plain[at..]) > 1 {
            continue;
        }
        found.push(name);
    }
    found
}

/// How many arguments stand in the parentheses with which the text begins.
fn arguments(text: &str) -> usize {
    let (mut depth, mut commas) = (0, 0);
    for letter in text.chars() {
        match letter {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ',' if depth == 1 => commas += 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    commas + 1
}

/// SQL without comments and string literals.
fn without_texts(sql: &str) -> String {
    let lines: Vec<_> = sql.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    let mut inside = false;
    lines
        .join("\n")
        .chars()
        .filter(|letter| {
            inside ^= *letter == '\'';
            !inside && *letter != '\''
        })
        .collect()
}

/// The types that a body names: of its variables, and after `::`.
fn types(body: &str) -> Vec<String> {
    let word = |text: &str| {
        let text = text.trim_start();
        let end = text.find(|c: char| !(c.is_alphanumeric() || "_.".contains(c))).unwrap_or(text.len());
        text[..end].to_lowercase()
    };
    let declared = body.split("BEGIN").next().unwrap_or_default().split("DECLARE").nth(1).unwrap_or_default();
    let variables = declared.split(';').filter_map(|variable| variable.trim().split_once(' '));
    let casts = body.match_indices("::").map(|(at, _)| word(&body[at + 2..]));
    variables.map(|(_, kind)| word(kind)).chain(casts).collect()
}

#[test]
fn a_type_is_found_where_it_is_named() {
    let body =
        "\nDECLARE\n    a text;\n    b pg_catalog.text;\nBEGIN\n    SELECT x::int8, y::pg_catalog.int4;\nEND";
    assert_eq!(types(body), ["text", "pg_catalog.text", "int8", "pg_catalog.int4"]);
}

#[test]
fn a_call_is_told_from_syntax() {
    for (sql, expected) in [
        ("SELECT pg_catalog.now(), now()", &["now"][..]),
        ("INSERT INTO orders (a) VALUES (1)", &[]),
        ("SELECT 'now()' -- now()", &[]),
        ("SELECT unnest($1), x FROM unnest($1, $2) AS t (a, b)", &["unnest"]),
        ("WITH a AS MATERIALIZED (SELECT coalesce(sum (b), 0)) SELECT overdue_cancel(1)", &["sum"]),
    ] {
        assert_eq!(calls(sql), expected, "{sql}");
    }
}

#[test]
fn every_call_in_our_queries_names_its_schema() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let mut queries = 0;
    for entry in fs::read_dir(folder).expect(".sqlx") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a description");
        let description: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let query = description["query"].as_str().expect("a query");
        queries += 1;
        assert_eq!(calls(query), [""; 0], "{query}");
    }
    assert!(queries > 10, "{queries}");
}

#[tokio::test]
async fn every_call_and_operator_in_our_functions_names_its_schema() {
    World::with(async |world| {
        let bodies: Vec<(String, String)> = sqlx::query_as(
            "SELECT proname::text, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'overdue%'",
        )
        .fetch_all(&world.pool)
        .await
        .expect("functions");
        assert!(bodies.len() >= 7, "{bodies:?}");
        for (name, body) in bodies {
            assert_eq!(calls(&body), [""; 0], "{name}");
            let plain = without_texts(&body);
            // Types of the caller's temporary schema would be found before PostgreSQL's. Keywords are not looked for.
            for found in types(&plain) {
                let keyword = ["bigint", "boolean", "interval", "record"].contains(&found.as_str());
                assert!(keyword || found.starts_with("pg_catalog."), "{name}: the type {found}");
            }
            // Operators of the callers' path would be found before PostgreSQL's.
            let plain = plain.replace(":=", "").replace("::", "");
            for (at, _) in plain.match_indices(" = ") {
                let clause = plain[..at].split_whitespace().rev().find(|word| {
                    ["SET", "USING", "WHERE", "AND", "OR", "IF", "ELSIF", "ON", "WHEN", "HAVING", "HINT", "DIAGNOSTICS"].contains(word)
                });
                // An assignment, not a comparison.
                assert!(matches!(clause, Some("SET" | "USING" | "HINT" | "DIAGNOSTICS")), "{name}: `=` after {clause:?}");
            }
            for operator in [" <> ", " + ", " - ", " >= ", " <= ", " < ", " > ", "||"] {
                assert!(!plain.contains(operator), "{name} has `{operator}` without OPERATOR(pg_catalog.…)");
            }
        }
    })
    .await;
}

/// Functions and operators that fit better than PostgreSQL's own, or just as well. Each call is noted, and fails.
const TRAPS: &str = "
    CREATE SEQUENCE sprung;
    CREATE FUNCTION spring() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_catalog.nextval('public.sprung'::regclass); RAISE 'a trap was called'; END $$;
    DO $$
    DECLARE signature text;
    BEGIN
        FOREACH signature IN ARRAY ARRAY[
            'cardinality(bigint[]) RETURNS integer', 'cardinality(timestamptz[]) RETURNS integer',
            'array_position(bigint[], bigint) RETURNS integer', 'array_ndims(bigint[]) RETURNS integer',
            'array_lower(bigint[], integer) RETURNS integer', 'unnest(bigint[]) RETURNS SETOF bigint',
            'unnest(bigint[], bigint[]) RETURNS SETOF bigint', 'unnest(timestamptz[]) RETURNS SETOF timestamptz',
            'min(bigint[]) RETURNS bigint', 'now() RETURNS timestamptz', 'clock_timestamp() RETURNS timestamptz',
            'make_interval(double precision) RETURNS interval', 'generate_series(integer, integer) RETURNS SETOF integer',
            'concat(text, name) RETURNS text', 'concat(text, name, text, text) RETURNS text', 'coalesce(bigint, bigint) RETURNS bigint',
            'pg_try_advisory_lock(integer, integer) RETURNS boolean', 'hashtext(text) RETURNS integer',
            'pg_try_advisory_xact_lock(integer, integer) RETURNS boolean', 'quote_ident(name) RETURNS text']
        LOOP
            EXECUTE pg_catalog.format('CREATE FUNCTION public.%s LANGUAGE plpgsql AS %L', signature,
                'BEGIN PERFORM public.spring(); END');
        END LOOP;
    END $$;
    CREATE AGGREGATE array_agg(bigint) (SFUNC = array_append, STYPE = bigint[], INITCOND = '{666}');
    CREATE AGGREGATE array_agg(timestamptz) (SFUNC = array_append, STYPE = timestamptz[], INITCOND = '{2001-01-01}');
    CREATE AGGREGATE count(bigint) (SFUNC = int8inc_any, STYPE = bigint, INITCOND = '666');
    CREATE FUNCTION wrong(interval, integer) RETURNS interval LANGUAGE plpgsql AS 'BEGIN PERFORM public.spring(); END';
    CREATE OPERATOR * (FUNCTION = wrong, LEFTARG = interval, RIGHTARG = integer);
    CREATE FUNCTION wrong(name, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM public.spring(); END';
    CREATE FUNCTION wrong(bigint[], bigint[]) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM public.spring(); END';
    CREATE FUNCTION wrong(oid, regclass) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM public.spring(); END';
    CREATE FUNCTION wrong(oid, integer) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM public.spring(); END';
    CREATE FUNCTION wrong(text, name) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM public.spring(); END';
    CREATE OPERATOR = (FUNCTION = wrong, LEFTARG = name, RIGHTARG = text);
    CREATE OPERATOR = (FUNCTION = wrong, LEFTARG = bigint[], RIGHTARG = bigint[]);
    CREATE OPERATOR = (FUNCTION = wrong, LEFTARG = oid, RIGHTARG = regclass);
    CREATE OPERATOR = (FUNCTION = wrong, LEFTARG = oid, RIGHTARG = integer);
    CREATE OPERATOR || (FUNCTION = wrong, LEFTARG = text, RIGHTARG = name);";

#[tokio::test]
async fn functions_that_a_shop_role_may_define_are_never_called() {
    World::with(async |world| {
        world.stock(2, 100).await;
        world.sql(TRAPS).await;
        let pod = world.pod(&[("sweep_every", "1s"), ("sweep_grace", "1s"), ("probe_every", "1s")]);
        // The shop knows what it calls; everything else is ours.
        world
            .sql(
                "INSERT INTO orders (user_id, payment_deadline)
                 SELECT 1, pg_catalog.now() + interval '1 s' FROM pg_catalog.generate_series(1, 3);
                 INSERT INTO order_items SELECT order_id, product_id, 1 FROM orders, inventory;
                 UPDATE inventory SET stock = stock - 3",
            )
            .await;
        for order in 1..=3 {
            world.closed(order).await;
        }
        let place = ["order", "place", "--window", "1h", "--item", "1:1", "--user", "1"];
        for command in [
            &["order", "show", "1"][..],
            &place,
            &["order", "extend", "4", "--by", "1h"],
            &["order", "cancel", "4"],
            &["sweep"],
            &["migrate"],
        ] {
            let (code, _, error) = world.run(command).await;
            assert_eq!((code, error.as_str()), (0, ""), "{command:?}");
        }
        world.outbox_empty().await;
        world.assert_stock_conserved(100).await;
        pod.stop().await;
        assert_eq!(
            world.number("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM sprung").await,
            0
        );
    })
    .await;
}
