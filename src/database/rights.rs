//! The rights that pods need, compared with those of the pods' role.

use sqlx::PgExecutor;

use super::catalog::TABLES;
use super::session::identifier;

/// The rights that pods need on each table. `postgres/grants.sql` grants them, and a test compares the two.
pub(super) const TABLE_RIGHTS: [(&str, &[&str]); 11] = [
    ("orders", &["SELECT", "UPDATE"]),
    ("order_items", &["SELECT"]),
    ("inventory", &["SELECT", "UPDATE"]),
    ("outbox", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("refused_events", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("closing_failures", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("lane_probes", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("leases", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("pods", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("overdue_database", &["SELECT", "UPDATE"]),
    ("overdue_migrations", &["SELECT"]),
];

const _: () =
    assert!(TABLE_RIGHTS.len() == TABLES.len(), "pods read each table, and the catalog is compared for each");

/// The functions that pods call directly.
const FUNCTIONS: [&str; 1] = ["overdue_give_back"];

/// The sequences that pods read: the last id drawn tells the relay where to look.
const SEQUENCES: [&str; 1] = ["outbox_id_seq"];

/// A right that is missing, and what to do.
#[derive(Debug)]
pub(super) struct Missing {
    pub problem: String,
    pub remedy: String,
}

/// The rights that this session's role lacks.
pub(super) async fn missing(on: impl PgExecutor<'_>, schema: &str) -> Result<Vec<Missing>, sqlx::Error> {
    let (tables, rights): (Vec<String>, Vec<String>) = TABLE_RIGHTS
        .iter()
        .flat_map(|(table, rights)| rights.iter().map(|right| ((*table).to_owned(), (*right).to_owned())))
        .unzip();
    let (functions, sequences) = (FUNCTIONS.map(str::to_owned), SEQUENCES.map(str::to_owned));
    let lacking = sqlx::query!(
        r#"SELECT pg_catalog.quote_ident(current_user) AS "role!", o.relation AS "relation!", o.privilege AS "privilege!", o.kind AS "kind!"
           FROM (
               SELECT w.relation, w.privilege, 'TABLE' AS kind
               FROM ROWS FROM (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[])) AS w (relation, privilege)
                    JOIN pg_catalog.pg_class AS c ON c.relname OPERATOR(pg_catalog.=) w.relation
                    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname OPERATOR(pg_catalog.=) $1::text
               WHERE NOT pg_catalog.has_table_privilege(c.oid, w.privilege)
               UNION ALL
               SELECT p.oid::pg_catalog.regprocedure::text, 'EXECUTE', 'FUNCTION'
               FROM pg_catalog.pg_proc AS p
                    JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname OPERATOR(pg_catalog.=) $1::text
               WHERE p.proname OPERATOR(pg_catalog.=) ANY ($4::text[])
                 AND NOT pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
               UNION ALL
               SELECT c.relname::text, 'SELECT', 'SEQUENCE'
               FROM pg_catalog.pg_class AS c
                    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname OPERATOR(pg_catalog.=) $1::text
               WHERE c.relname OPERATOR(pg_catalog.=) ANY ($5::text[])
                 AND CASE c.relkind WHEN 'S' THEN NOT pg_catalog.has_sequence_privilege(c.oid, 'SELECT') END
               UNION ALL
               SELECT c.relname::text, 'BYPASS', 'POLICY'
               FROM pg_catalog.pg_class AS c
                    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname OPERATOR(pg_catalog.=) $1::text
               WHERE c.relname OPERATOR(pg_catalog.=) ANY ($2::text[]) AND c.relkind IN ('r', 'p')
                 AND pg_catalog.row_security_active(c.oid)) AS o"#,
        schema,
        &tables,
        &rights,
        &functions,
        &sequences
    );
    let mut lacking = lacking.fetch_all(on).await?;
    // Sorted, because the planner decides in which order they come, and an error names the first one.
    lacking.sort_by_key(|row| {
        let mut wanted = tables.iter().zip(&rights);
        let place = wanted.position(|wanted| wanted == (&row.relation, &row.privilege));
        place.unwrap_or(usize::MAX)
    });
    let schema = identifier(schema);
    Ok(lacking
        .into_iter()
        .map(|row| {
            let (role, relation, privilege) = (row.role, row.relation, row.privilege);
            if row.kind == "POLICY" {
                return Missing {
                    problem: format!("row security hides rows of {relation} from the role {role}"),
                    remedy: format!(
                        "a pod must see every row: ALTER ROLE {role} BYPASSRLS (by a superuser), or ALTER TABLE \
                         {schema}.{relation} DISABLE ROW LEVEL SECURITY"
                    ),
                };
            }
            Missing {
                problem: format!("the role {role} lacks {privilege} on {relation}"),
                remedy: format!("GRANT {privilege} ON {} {schema}.{relation} TO {role} (postgres/grants.sql has all of them)", row.kind),
            }
        })
        .collect())
}
