//! Each command does what it says, prints JSON for scripts when asked to, and tells its outcome by its exit code:
//! 0 done, 1 broker or database failed, 2 wrong usage, 3 the order's state does not allow it, 4 what Overdue needs differs,
//! 5 nothing differs in what could be seen, but not everything could be.

use std::time::Duration;

use lapin::BasicProperties;
use overdue::roles::Role;
use overdue::stats::Count;
use serde_json::{Value, json};

use crate::harness::{World, eventually};

/// Runs a command with `--json` that must succeed; what it printed.
async fn done(world: &World, arguments: &[&str]) -> Value {
    let (code, out, error) = world.run(&[arguments, &["--json"]].concat()).await;
    assert_eq!((code, error.as_str()), (0, ""), "{arguments:?}");
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("{arguments:?} printed {out}"))
}

/// Runs a command that must be refused; what it said.
async fn refused(world: &World, arguments: &[&str]) -> String {
    let (code, out, error) = world.run(arguments).await;
    assert_eq!((code, out.as_str()), (3, ""), "{arguments:?}: {error}");
    error
}

#[tokio::test]
async fn orders_are_placed_shown_paid_cancelled_and_extended() {
    World::with(async |world| {
        world.stock(2, 10).await;
        let place = ["order", "place", "--user", "7", "--window", "1h", "--item", "2:3", "--item", "1:1"];
        let placed = done(world, &place).await;
        assert_eq!((&placed["status"], &placed["user_id"]), (&json!("PENDING"), &json!(7)));
        assert_eq!(
            placed["items"],
            json!([{"product_id": 1, "quantity": 1}, {"product_id": 2, "quantity": 3}])
        );
        assert_eq!((&placed["closed_at"], &placed["lateness_ms"]), (&Value::Null, &Value::Null));
        let id = placed["order_id"].to_string();
        assert_eq!(done(world, &["order", "show", &id]).await, placed);
        let (_, text, _) = world.run(&["order", "show", &id]).await;
        assert!(text.contains("PENDING") && text.contains("3 of product 2"), "{text}");

        let extended = done(world, &["order", "extend", &id, "--by", "1h"]).await;
        assert!(extended["payment_deadline"].as_str() > placed["payment_deadline"].as_str(), "{extended}");
        assert_eq!(done(world, &["order", "pay", &id]).await["status"], json!("PAID"));
        for command in
            [&["order", "pay", &id][..], &["order", "cancel", &id], &["order", "extend", &id, "--by", "1s"]]
        {
            assert!(
                refused(world, command).await.contains(&format!("order {id} is PAID; only a PENDING order"))
            );
        }
        let other = done(world, &place).await["order_id"].to_string();
        assert_eq!(done(world, &["order", "cancel", &other]).await["status"], json!("CANCELLED"));
        world.assert_stock_conserved(10).await;

        assert!(refused(world, &["order", "show", "404"]).await.contains("there is no order 404"));
        let missing = refused(world, &["order", "place", "--user", "1", "--item", "9:1"]).await;
        assert!(missing.contains("there is no product 9"), "{missing}");
        let greedy =
            refused(world, &["order", "place", "--user", "1", "--item", "1:5", "--item", "2:11"]).await;
        assert!(greedy.contains("product 2 has 7 in stock, and 11 were ordered"), "{greedy}");
        world.assert_stock_conserved(10).await;

        let due = done(world, &["order", "place", "--user", "1", "--window", "0s"]).await["order_id"].clone();
        // Who asks why an order was late finds its number.
        let swept = json!({"closed": 1, "first_closed": [due], "left": 0});
        assert_eq!(done(world, &["sweep", "--grace", "0s"]).await, swept);
        let closed = done(world, &["order", "show", &due.to_string()]).await;
        assert!(
            closed["status"] == json!("CLOSED") && closed["lateness_ms"].as_f64() > Some(0.0),
            "{closed}"
        );
    })
    .await;
}

#[tokio::test]
async fn an_order_that_cannot_be_closed_says_why_and_what_happens_next() {
    World::with(async |world| {
        world
            .sql(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'frozen by the lawyers'; END$$;
                 CREATE TRIGGER refuse BEFORE UPDATE ON orders FOR EACH ROW WHEN (old.user_id = 13) EXECUTE FUNCTION refuse()",
            )
            .await;
        let place = async |user: &str| {
            let placed = done(world, &["order", "place", "--user", user, "--window", "0s"]).await;
            placed["order_id"].to_string()
        };
        let (bad, _good) = (place("13").await, place("1").await);
        assert_eq!(done(world, &["order", "show", &bad]).await["closing_failures"], Value::Null);
        assert_eq!(done(world, &["sweep", "--grace", "0s"]).await["left"], json!(1));
        let failures = done(world, &["order", "show", &bad]).await["closing_failures"].clone();
        assert_eq!((&failures["attempts"], &failures["code"]), (&json!(1), &json!("P0001")));
        assert!(failures["reason"].as_str().is_some_and(|reason| reason.contains("frozen by the lawyers")));
        assert!(failures["next_try_at"].is_string(), "{failures}");

        let role = format!("{}_shop", world.name);
        world.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'limited'; GRANT SELECT ON orders, order_items TO {role}")).await;
        let mut url = url::Url::parse(&world.database_url).expect("a URL");
        url.set_username(&role).and_then(|()| url.set_password(Some("limited"))).expect("a login");
        let shown = done(world, &["order", "show", &bad, "--database-url", url.as_str()]).await;
        assert!(shown["closing_failures"]["cannot_tell"].is_string(), "{shown}");
        world.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    })
    .await;
}

#[tokio::test]
async fn a_benchmark_declares_its_own_queues_whatever_holds_for_the_shops() {
    World::with(async |world| {
        let short = [
            "--rate",
            "20",
            "--seconds",
            "1",
            "--first-ms",
            "1500",
            "--last-ms",
            "2000",
            "--paid-percent",
            "0",
        ];
        let run = [&["bench", "steady", "--declare-topology", "false"][..], &short].concat();
        let figures = done(world, &run).await["figures"].clone();
        let closed = figures.as_array().into_iter().flatten().find(|figure| figure["name"] == "closed");
        assert_eq!(closed.map(|figure| &figure["value"]), Some(&json!(20.0)), "{figures}");
    })
    .await;
}

#[tokio::test]
async fn every_form_of_order_created_message_closes_its_order() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.declared().await;
        let mut orders = Vec::new();
        for form in ["json", "delay", "bare", "cloudevent"] {
            let order = world.place(Duration::from_secs(1), &[]).await;
            let published = done(world, &["publish", &order.to_string(), "--in", "1s", "--form", form]).await;
            assert_eq!((&published["key"], &published["confirmed"]), (&json!("order.delay"), &json!(true)));
            orders.push(order);
        }
        let order = world.place(Duration::from_secs(1), &[]).await;
        done(world, &["publish", &order.to_string(), "--deadline", "2020-01-01T00:00:00Z"]).await;
        for order in orders.into_iter().chain([order]) {
            world.closed(order).await;
        }
        assert_eq!(pod.shared.stats.get(Count::Intake), 5);
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        assert_eq!(world.depth(&world.names.parked()).await, 0);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn parked_messages_are_listed_shown_sent_again_and_discarded() {
    World::with(async |world| {
        for created in [true, false] {
            assert_eq!(
                done(world, &["topology", "declare"]).await,
                json!({"exchanges": ["order.exchange", "order.events"], "queues": 6, "created": created})
            );
        }
        assert_eq!(done(world, &["parked", "list"]).await, json!([]));
        assert!(world.run(&["parked", "list"]).await.1.contains("nothing is parked"));
        assert_eq!(done(world, &["parked", "discard", "--all"]).await["messages"], json!(0));
        assert!(
            refused(world, &["parked", "show", "abc"]).await.contains("no parked message has the id abc")
        );
        assert!(refused(world, &["parked", "retry", "abc"]).await.contains("no parked message matches"));
        assert_eq!(world.run(&["parked", "retry"]).await.0, 2, "what to retry must be said");

        // Without the watch, whose probes would be counted with the messages below.
        let pod = world.pod_with_roles(&[Role::Intake, Role::Close], &[("max_attempts", "1")]);
        let delay = BasicProperties::default().with_expiration("60000".into());
        world.publish("order.delay", b"junk", delay.with_message_id("m1".into())).await;
        // One after the other: the unknown orders of a batch are parked in one message.
        for (parked, wake) in [(2, "{\"wake\":[[71,0,0,1]]}"), (3, "{\"wake\":[[72,0,0,1]]}")] {
            world.publish("order.process", wake.as_bytes(), BasicProperties::default()).await;
            eventually("it is parked", async || world.depth(&world.names.parked()).await == parked).await;
        }
        let list = world.parked(3).await;
        pod.stop().await;
        let find = |body: &str| {
            list.iter().find(|parked| parked["body"].as_str().is_some_and(|b| b.contains(body))).expect("it")
        };
        let (junk, first) = (find("junk"), find("71"));
        assert_eq!((&first["order_ids"], &first["retry_key"]), (&json!([71]), &json!("order.process")));
        assert_eq!(
            (&junk["order_ids"], &junk["retry_key"], &junk["bytes"]),
            (&json!([]), &json!("order.delay"), &json!(4))
        );

        let id = junk["id"].as_str().expect("an id");
        let shown = done(world, &["parked", "show", id]).await;
        for field in ["id", "reason", "parked_at", "retry_key", "order_ids", "bytes", "body"] {
            assert_eq!(shown[field], junk[field], "{field}");
        }
        let (_, text, _) = world.run(&["parked", "show", id]).await;
        assert!(text.contains("not JSON") && text.contains("m1") && text.ends_with("junk\n"), "{text}");
        assert_eq!(done(world, &["parked", "list", "--order", "72"]).await.as_array().map(Vec::len), Some(1));
        assert_eq!(
            done(world, &["parked", "list", "--reason", "does not exist"]).await.as_array().map(Vec::len),
            Some(2)
        );
        assert_eq!(done(world, &["parked", "list", "--limit", "1"]).await.as_array().map(Vec::len), Some(1));
        eventually("looking changed nothing", async || world.depth(&world.names.parked()).await == 3).await;

        assert_eq!(done(world, &["parked", "retry", "--order", "71"]).await["messages"], json!(1));
        eventually("it is on its way", async || world.depth(&world.names.process()).await == 1).await;
        assert_eq!(done(world, &["parked", "retry", id]).await["ids"], json!([id]));
        // As it was published, its delay included: so a pod will park it again.
        eventually("it is back", async || world.depth(&world.names.intake()).await == 1).await;
        assert_eq!(done(world, &["parked", "discard", "--reason", "order 72"]).await["messages"], json!(1));
        assert_eq!(done(world, &["parked", "list"]).await, json!([]));
    })
    .await;
}

#[tokio::test]
async fn migrating_and_verifying_say_what_they_found() {
    World::with(async |world| {
        assert_eq!(done(world, &["migrate"]).await, json!({"migrated": true, "schema": "public"}));
        let (code, found, error) = world.run(&["topology", "verify", "--json"]).await;
        assert_eq!(code, 4);
        assert!(
            found.contains("the exchange is missing")
                && error.contains("differs from what Overdue needs in 8 places"),
            "{error}"
        );
        for command in [&["order", "show"][..], &["parked", "retry"], &["migrate"]] {
            let (code, help, _) = world.run(&[command, &["--help"]].concat()).await;
            assert!(code == 0 && help.lines().count() < 30, "{command:?}: {help}");
            assert!(help.contains("--database-url") && help.contains("overdue run --help"), "{help}");
        }
        // A setting may stand before the command and after it; the last one counts.
        for (arguments, said) in [
            (&["--lead", "early", "order", "show", "1"][..], "`early`"),
            (&["--lead", "early", "order", "--lead", "later", "show", "1"], "`later`"),
            (&["--lead", "early", "order", "show", "1", "--lead", "last"], "`last`"),
        ] {
            let (code, _, error) = world.run(arguments).await;
            assert!(code == 2 && error.contains(said), "{arguments:?}: {error}");
        }
        let (code, help, _) = world.run(&["run", "--help"]).await;
        assert_eq!(code, 0);
        for setting in overdue::config::settings::SETTINGS {
            assert!(
                help.contains(setting.env) && help.contains(&format!("--{}", setting.name.replace('_', "-"))),
                "{}",
                setting.name
            );
        }
    })
    .await;
}
