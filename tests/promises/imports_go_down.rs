//! The house has floors: an import goes down, never up. On one floor it is allowed where it makes no circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Top to bottom, as in ARCHITECTURE.md and `src/lib.rs`.
const FLOORS: [&[&str]; 10] = [
    &["cli"],
    &["pod"],
    &["bench", "roles"],
    &["closing"],
    &["orders", "outbox", "parked", "probes", "verify"],
    &["broker", "database"],
    &["config", "topology"],
    &["lanes"],
    &["wire"],
    &["clock", "error_text", "finding", "stats"],
];

/// From each room to those that it imports.
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Reads them: whatever follows `crate::` outside of comments.
fn read(folder: &Path, room: Option<&str>, arrows: &mut Arrows) {
    for path in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        let room = room.unwrap_or(name);
        if path.is_dir() {
            read(&path, Some(room), arrows);
        } else if path.extension().is_some_and(|is| is == "rs") && !["lib", "main"].contains(&name) {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let code = text.lines().filter_map(|line| line.split("//").next());
            let paths = code.flat_map(|line| line.split("crate::").skip(1));
            let rooms =
                paths.filter_map(|path| path.split(|c: char| !(c.is_alphanumeric() || c == '_')).next());
            arrows
                .entry(room.to_owned())
                .or_default()
                .extend(rooms.filter(|to| *to != room).map(str::to_owned));
        }
    }
}

fn reaches(arrows: &Arrows, from: &str, to: &str) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(room) = next.pop() {
        if seen.insert(room) {
            next.extend(arrows.get(room).into_iter().flatten().map(String::as_str));
        }
    }
    seen.contains(to)
}

fn wrong(arrows: &Arrows) -> Vec<String> {
    let floor = |room: &str| FLOORS.iter().position(|rooms| rooms.contains(&room));
    let all = arrows.iter().flat_map(|(from, to)| to.iter().map(move |to| (from.as_str(), to.as_str())));
    all.filter_map(|(from, to)| match (floor(from), floor(to)) {
        (Some(above), Some(below)) if below < above => {
            Some(format!("{from} imports {to}, which is above it"))
        }
        (Some(_), Some(_)) if reaches(arrows, to, from) => Some(format!("{from} and {to} are in a circle")),
        (Some(_), Some(_)) => None,
        _ => Some(format!("{from} or {to} has no floor")),
    })
    .collect()
}

#[test]
fn an_import_goes_down_and_never_up() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut arrows = Arrows::new();
    read(&source, None, &mut arrows);
    assert_eq!(wrong(&arrows), [""; 0]);

    let list = std::fs::read_to_string(source.join("lib.rs")).expect("lib.rs");
    let listed: Vec<_> =
        list.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(listed, FLOORS.concat(), "lib.rs lists the rooms from top to bottom");

    let upward = [("broker", "outbox")];
    let circle = [("broker", "database"), ("database", "broker")];
    let homeless = [("cli", "attic")];
    for more in [&upward[..], &circle, &homeless] {
        let mut arrows = arrows.clone();
        for (from, to) in more {
            arrows.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        assert_eq!(wrong(&arrows).len(), more.len(), "{more:?} is seen");
    }
}
