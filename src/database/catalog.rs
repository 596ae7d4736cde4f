//! Compares the schema in the database's catalog with the one that the code needs: what differs, and who can repair it.

use std::collections::BTreeMap;

use sqlx::PgExecutor;

use super::session::identifier;

/// Overdue's tables. The shop writes to the first three as well.
pub(super) const TABLES: [&str; 11] = [
    "orders",
    "order_items",
    "inventory",
    "outbox",
    "refused_events",
    "closing_failures",
    "lane_probes",
    "leases",
    "pods",
    "overdue_database",
    "overdue_migrations",
];

/// The catalog that the code needs; written by `make schema`, and compared with the migrations by a test.
pub(super) const WANTED: &str = include_str!("../../migrations/schema.txt");
pub(super) const FUNCTIONS: &str = include_str!("../../migrations/functions.sql");

/// One object of the catalog, such as a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thing {
    pub definition: String,
    /// A function's source text.
    pub body: Option<String>,
}

/// Overdue's objects in the catalog, by kind and name.
pub(super) type Catalog = BTreeMap<String, Thing>;

/// Reads the catalog. The session's search path must be the schema alone.
pub(super) async fn read(on: impl PgExecutor<'_>, schema: &str) -> Result<Catalog, sqlx::Error> {
    let tables = TABLES.map(str::to_owned);
    let rows = sqlx::query_file!("src/database/catalog.sql", schema, &tables).fetch_all(on).await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.object, Thing { definition: plain(&row.definition), body: row.body }))
        .collect())
}

/// A definition in one line, without `pg_catalog`: PostgreSQL shows it where the schema has an object of the same name.
fn plain(definition: &str) -> String {
    let line = definition.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.as_str();
    while let Some((before, operator)) = rest.split_once("OPERATOR(pg_catalog.")
        && let Some((operator, after)) = operator.split_once(')')
    {
        plain.extend([before, operator]);
        rest = after;
    }
    plain.push_str(rest);
    plain.replace("pg_catalog.", "")
}

/// The catalog as `migrations/schema.txt` has it: what a plain database shows after all migrations.
#[must_use]
pub(super) fn dump(catalog: &Catalog) -> String {
    let lines: Vec<_> =
        catalog.iter().map(|(object, thing)| format!("{object}: {}", thing.definition)).collect();
    lines.join("\n") + "\n"
}

/// A script with the names of this schema in place of its placeholders.
pub(super) fn rendered(script: &str, schema: &str) -> String {
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let [inventory, items] =
        ["inventory", "order_items"].map(|table| literal(&format!("{}.{table}", identifier(schema))));
    script
        .replace(":inventory", &inventory)
        .replace(":items", &items)
        .replace(":name", &literal(schema))
        .replace(":schema", &identifier(schema))
}

/// The functions' source texts for this schema, by name.
fn bodies(schema: &str) -> BTreeMap<String, String> {
    let script = rendered(FUNCTIONS, schema);
    let begin = format!("CREATE OR REPLACE FUNCTION {}.", identifier(schema));
    script
        .split(&begin)
        .skip(1)
        .filter_map(|function| {
            let (name, rest) = function.split_once('(')?;
            let body = rest.split("$body$").nth(1)?;
            Some((name.to_owned(), body.to_owned()))
        })
        .collect()
}

/// An object that is not as the code needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// Kind and name, such as `trigger orders_inserted of orders`.
    pub object: String,
    pub problem: String,
    pub repair: Repair,
}

/// Who repairs a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Repair {
    /// `overdue migrate`, without a lock that other sessions wait for.
    Functions,
    /// `overdue migrate`, with a lock on the table for a moment.
    Triggers,
    /// `overdue migrate`, while other sessions work.
    Indexes,
    /// `overdue migrate`, which creates the tables.
    Tables,
    /// A person.
    ByHand,
}

/// What differs, in the order in which it can be repaired.
pub(super) fn differences(catalog: &Catalog, schema: &str) -> Vec<Difference> {
    let wanted: Vec<(&str, &str)> = WANTED.lines().filter_map(|line| line.split_once(": ")).collect();
    let mut found = Vec::new();
    let none = !catalog.keys().any(|object| object.starts_with("table "));
    for (object, definition) in &wanted {
        let problem = match catalog.get(*object) {
            None => format!("{object} is missing; it should be: {definition}"),
            Some(there) if there.definition != *definition => {
                format!("{object} is `{}` and should be `{definition}`", there.definition)
            }
            Some(_) => continue,
        };
        let repair = if none { Repair::Tables } else { repair(object, catalog.get(*object), definition) };
        found.push(Difference { object: (*object).to_owned(), problem, repair });
    }
    let bodies = bodies(schema);
    for (object, thing) in catalog {
        let name =
            object.strip_prefix("function ").and_then(|rest| rest.split('(').next()).unwrap_or_default();
        let text = bodies.get(name).filter(|_| wanted.iter().any(|(wanted, _)| wanted == object));
        if text.is_some_and(|text| thing.body.as_ref() != Some(text)) {
            let problem = format!(
                "{object} has another text than this version's for the schema {schema} (the schema was renamed or copied, or \
                 `overdue migrate` did not run after an upgrade)"
            );
            found.push(Difference { object: object.clone(), problem, repair: Repair::Functions });
        }
        let extra = object.starts_with("rule ") || not_filled(object, thing, &wanted);
        if extra {
            let problem = format!("{object} is in the way: {}", thing.definition);
            found.push(Difference { object: object.clone(), problem, repair: Repair::ByHand });
        }
    }
    found.sort_by_key(|difference| difference.repair);
    found
}

fn repair(object: &str, there: Option<&Thing>, wanted: &str) -> Repair {
    // Replacing a function does not change its owner.
    let replaceable = there.is_none_or(|there| !there.definition.contains("not owned"));
    let same_index = there.is_none_or(|there| there.definition == format!("{wanted} (not valid)"));
    match object.split(' ').next() {
        Some("function") if replaceable => Repair::Functions,
        Some("trigger") => Repair::Triggers,
        Some("index") if same_index => Repair::Indexes,
        _ => Repair::ByHand,
    }
}

/// Whether this is a column that was added to a table into which only Overdue writes, and that would refuse its rows.
fn not_filled(object: &str, thing: &Thing, wanted: &[(&str, &str)]) -> bool {
    let Some(column) = object.strip_prefix("column ") else { return false };
    let table = column.split('.').next().unwrap_or_default();
    let ours = TABLES[3..].contains(&table) && table != "overdue_migrations";
    let needs_value = thing.definition.contains(" not null")
        && !thing.definition.contains(" default ")
        && !thing.definition.contains(" generated ");
    ours && needs_value && !wanted.iter().any(|(wanted, _)| *wanted == object)
}

#[cfg(test)]
mod tests;
