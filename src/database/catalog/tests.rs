use super::*;

fn as_wanted() -> Catalog {
    let bodies = bodies("public");
    let thing = |object: &str, definition: &str| {
        let name = object.strip_prefix("function ").and_then(|rest| rest.split('(').next());
        Thing { definition: definition.to_owned(), body: name.and_then(|name| bodies.get(name).cloned()) }
    };
    let lines = WANTED.lines().filter_map(|line| line.split_once(": "));
    lines.map(|(object, definition)| (object.to_owned(), thing(object, definition))).collect()
}

#[test]
fn definitions_do_not_depend_on_what_others_have_made() {
    for (shown, expected) in [
        ("CHECK (\n  a = 1)", "CHECK ( a = 1)"),
        ("CHECK ((pg_catalog.cardinality(a) OPERATOR(pg_catalog.=) 1))", "CHECK ((cardinality(a) = 1))"),
        ("OPERATOR(mine.=)", "OPERATOR(mine.=)"),
    ] {
        assert_eq!(plain(shown), expected);
    }
}

#[test]
fn each_function_has_a_text() {
    let functions: Vec<_> = as_wanted().into_iter().filter(|(o, _)| o.starts_with("function ")).collect();
    assert!(functions.len() >= 7 && functions.iter().all(|(_, thing)| thing.body.is_some()), "{functions:?}");
}

#[test]
fn what_differs_is_found_and_who_mends_it() {
    type Change = fn(&mut Catalog);
    let set = |catalog: &mut Catalog, object: &str, definition: &str| {
        catalog.insert(object.to_owned(), Thing { definition: definition.to_owned(), body: None });
    };
    let cases: Vec<(&str, Change, Option<Repair>)> = vec![
        ("nothing", |_| {}, None),
        ("empty", |c| c.clear(), Some(Repair::Tables)),
        (
            "no column",
            |c| {
                c.remove("column orders.updated_at");
            },
            Some(Repair::ByHand),
        ),
        (
            "no trigger",
            |c| {
                c.remove("trigger orders_inserted of orders");
            },
            Some(Repair::Triggers),
        ),
        (
            "no index",
            |c| {
                c.remove("index orders_pending_by_deadline");
            },
            Some(Repair::Indexes),
        ),
        (
            "invalid index",
            |c| {
                c.get_mut("index orders_pending_by_deadline")
                    .expect("an index")
                    .definition
                    .push_str(" (not valid)");
            },
            Some(Repair::Indexes),
        ),
        (
            "another index",
            |c| c.get_mut("index orders_pending_by_deadline").expect("an index").definition.push('x'),
            Some(Repair::ByHand),
        ),
        (
            "another text",
            |c| {
                let text =
                    &mut c.get_mut("function overdue_give_back(orders bigint[])").expect("a function").body;
                *text = text.take().map(|text| text.replace("\"public\"", "\"berlin\""));
            },
            Some(Repair::Functions),
        ),
    ];
    for (name, change, expected) in cases {
        let mut catalog = as_wanted();
        change(&mut catalog);
        let found = differences(&catalog, "public");
        assert_eq!(found.first().map(|difference| difference.repair), expected, "{name}: {found:?}");
    }
    let mut catalog = as_wanted();
    set(&mut catalog, "column orders.comment", "text not null");
    set(&mut catalog, "column outbox.comment", "text");
    set(&mut catalog, "trigger shops_own of orders", "CREATE TRIGGER");
    assert_eq!(differences(&catalog, "public"), [], "what a shop may add");
    set(&mut catalog, "column outbox.shop", "text not null");
    set(&mut catalog, "rule nothing of orders", "rewrites statements");
    assert_eq!(differences(&catalog, "public").len(), 2);
}
