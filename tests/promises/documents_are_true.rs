//! What the documents say about the code is what the code says: settings, and the tests that prove the invariants.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use overdue::config::settings::SETTINGS;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries
        .map(|entry| entry.expect("an entry").path())
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// A setting's row in the README's table.
fn row(setting: &overdue::config::settings::Setting) -> String {
    let default = setting.default.filter(|default| !default.is_empty());
    let default = default.map(|default| format!("`{default}` ")).unwrap_or_default();
    format!("| `{}` | `{}` | {default}| {} |", setting.name, setting.env, setting.help)
}

#[test]
fn the_readmes_table_of_settings_is_the_codes() {
    let readme = read(&project().join("README.md"));
    let missing: Vec<_> =
        SETTINGS.iter().map(row).filter(|row| !readme.lines().any(|line| line == row)).collect();
    assert!(missing.is_empty(), "README.md lacks these rows:\n{}", missing.join("\n"));
    let named = readme
        .lines()
        .filter(|line| line.starts_with("| `") && (line.contains("`OVERDUE_") || line.contains("_URL`")));
    assert_eq!(
        named.count(),
        SETTINGS.len(),
        "README.md has rows of settings that do not exist, or has one twice"
    );
}

/// Identifiers with a path, such as `file::test`, in backticks.
fn cited(text: &str) -> Vec<&str> {
    let in_backticks = text.split('`').skip(1).step_by(2);
    let path = |text: &&str| {
        text.contains("::") && text.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c))
    };
    in_backticks.filter(path).collect()
}

#[test]
fn the_architecture_names_only_tests_that_exist_and_one_for_each_invariant() {
    let architecture = read(&project().join("ARCHITECTURE.md"));
    let heading = |line: &&str| line.starts_with("## ");
    let lines: Vec<_> = architecture.lines().collect();
    let start = lines
        .iter()
        .position(|line| heading(line) && line.contains("Invariants"))
        .expect("a heading `## Invariants`");
    let section: Vec<_> = lines[start + 1..].iter().take_while(|line| !heading(line)).copied().collect();
    let section = section.join("\n");
    let cited = cited(&section);
    assert!(cited.len() >= 8, "each of the eight invariants names its test: {cited:?}");
    let files: Vec<_> = ["src", "tests"].iter().flat_map(|folder| sources(&project().join(folder))).collect();
    for path in cited {
        let (module, test) = path.rsplit_once("::").expect("a path");
        let module = module.strip_suffix("::tests").unwrap_or(module);
        let file = format!("{}.rs", module.rsplit("::").next().expect("a name"));
        let defined = format!("fn {test}(");
        let found = files.iter().any(|path| path.ends_with(&file) && read(path).contains(&defined));
        assert!(found, "ARCHITECTURE.md names `{path}`, which no {file} defines");
    }
}

#[test]
fn every_line_of_the_log_has_a_key_and_every_key_is_documented() {
    let page = read(&project().join("docs/logging.md"));
    let keys =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | ")).collect::<Vec<_>>();
    let level = |rest: &str| ["INFO", "WARN", "ERROR", "DEBUG"].iter().any(|level| rest.starts_with(level));
    let documented: BTreeSet<_> = keys.iter().filter(|(_, rest)| level(rest)).map(|(key, _)| *key).collect();
    let mut used: BTreeSet<String> = ["counts", "stopped"].map(str::to_owned).into();
    for path in
        sources(&project().join("src")).into_iter().filter(|path| !path.iter().any(|part| part == "bench"))
    {
        let text = read(&path);
        for call in text.split("tracing::").skip(1) {
            let Some((name, arguments)) = call.split_once("!(") else { continue };
            if ["info", "warn", "error", "debug"].contains(&name) {
                let arguments = arguments.trim_start();
                let key = arguments.strip_prefix("event = \"").and_then(|rest| rest.split('"').next());
                // The counters are logged under two keys.
                let key = key.or_else(|| arguments.strip_prefix("event,").map(|_| "counts"));
                used.insert(
                    key.unwrap_or_else(|| panic!("{}: a line without a key", path.display())).to_owned(),
                );
            }
        }
    }
    assert_eq!(used.iter().map(String::as_str).collect::<BTreeSet<_>>(), documented);
    let counters: Vec<_> = keys.iter().filter(|(_, rest)| !level(rest)).map(|(key, _)| *key).collect();
    let named = |name: &str| counters.iter().any(|key| key.split("`, `").any(|key| key == name));
    assert!(overdue::stats::NAMES.iter().all(|name| named(name)), "docs/logging.md lacks a counter");
}

#[test]
fn every_file_of_promises_is_part_of_the_test_binary() {
    let folder = project().join("tests/promises");
    let main = read(&folder.join("main.rs"));
    for path in sources(&folder) {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        let parent = path.parent().expect("a folder");
        let listed = if parent == folder { main.clone() } else { read(&parent.join("mod.rs")) };
        assert!(
            ["main", "mod"].contains(&name) || listed.contains(&format!("mod {name};")),
            "{name}.rs is in no module"
        );
    }
}
