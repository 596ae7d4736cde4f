//! The broker users that `overdue topology export` brings can do their part and nothing else. Each test logs in as the user.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeBindOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ErrorKind, ExchangeKind};
use serde_json::json;

use crate::harness::{Shop, World, eventually};

/// Whether the broker refused this on a channel of its own, for the lack of a permission.
async fn refused<T>(
    connection: &Connection,
    what: &str,
    call: impl AsyncFnOnce(Channel) -> lapin::Result<T>,
) {
    let channel = connection.create_channel().await.expect("a channel");
    match call(channel).await {
        Ok(_) => panic!("{what} is allowed"),
        Err(error) => assert!(is_refusal(&error), "{what}: {error}"),
    }
}

fn is_refusal(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(error) => *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED),
        _ => false,
    }
}

fn none() -> FieldTable {
    FieldTable::default()
}

/// Publishes and waits for the confirm, which a channel that the broker closes never gives.
async fn publish(
    channel: Channel,
    exchange: &str,
    key: &str,
    properties: BasicProperties,
) -> lapin::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions::default();
    channel.basic_publish(exchange.into(), key.into(), options, b"{}", properties).await?.await?;
    Ok(())
}

/// Everything by which a user could take, drop or move messages of ours, or change what exists.
async fn may_touch_nothing(shop: &Shop<'_>, part: &str) {
    let connection = shop.connect(part).await;
    for queue in [shop.names.process(), shop.names.parked(), shop.names.intake()] {
        let name = || queue.as_str().into();
        refused(&connection, "consuming", async |channel| {
            channel.basic_consume(name(), "".into(), BasicConsumeOptions::default(), none()).await
        })
        .await;
        refused(&connection, "getting", async |channel| {
            channel.basic_get(name(), BasicGetOptions::default()).await
        })
        .await;
        refused(&connection, "purging", async |channel| {
            channel.queue_purge(name(), QueuePurgeOptions::default()).await
        })
        .await;
        refused(&connection, "deleting a queue", async |channel| {
            channel.queue_delete(name(), QueueDeleteOptions::default()).await
        })
        .await;
        refused(&connection, "binding our queue", async |channel| {
            let exchange = shop.names.events();
            channel.queue_bind(name(), exchange.into(), "#".into(), QueueBindOptions::default(), none()).await
        })
        .await;
        refused(&connection, "unbinding our queue", async |channel| {
            channel.queue_unbind(name(), shop.names.exchange().into(), "order.process".into(), none()).await
        })
        .await;
    }
    refused(&connection, "declaring a queue of our names", async |channel| {
        let name = format!("{}more.queue", shop.names.stem());
        channel.queue_declare(name.into(), QueueDeclareOptions::durable(), none()).await
    })
    .await;
    refused(&connection, "declaring an exchange of our names", async |channel| {
        let name = format!("{}more", shop.names.stem());
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(name.into(), ExchangeKind::Topic, durable, none()).await
    })
    .await;
    // The default exchange routes to any queue by its name.
    refused(&connection, "publishing to the default exchange", async |channel| {
        publish(channel, "", &shop.names.process(), BasicProperties::default()).await
    })
    .await;
    refused(&connection, "publishing an event", async |channel| {
        publish(channel, &shop.names.events(), "order.closed", BasicProperties::default()).await
    })
    .await;
    refused(&connection, "publishing a wake", async |channel| {
        publish(channel, &shop.names.exchange(), "order.process", BasicProperties::default()).await
    })
    .await;
}

#[tokio::test]
async fn the_publisher_announces_orders_and_can_forge_no_event() {
    World::with(async |world| {
        let shop = world.import_shop().await;
        may_touch_nothing(&shop, "publisher").await;

        // Whoever hears every event.
        let (ours, channel) = world.channel().await;
        let declare = channel.queue_declare("all".into(), QueueDeclareOptions::durable(), none());
        declare.await.expect("declared");
        let events = shop.names.events();
        let bind =
            channel.queue_bind("all".into(), events.into(), "#".into(), QueueBindOptions::default(), none());
        bind.await.expect("bound");

        let (publisher, channel) = shop.channel("publisher").await;
        publish(channel, &shop.names.exchange(), "order.delay", BasicProperties::default())
            .await
            .expect("published");
        let mut keys = FieldArray::default();
        keys.push(AMQPValue::LongString("order.closed".into()));
        let mut forged = 0;
        for header in ["CC", "BCC"] {
            let mut headers = none();
            headers.insert(ShortString::from(header), AMQPValue::FieldArray(keys.clone()));
            let properties = BasicProperties::default().with_headers(headers);
            let channel = publisher.create_channel().await.expect("a channel");
            // Since 4.0.3 the keys in these headers need the permission too; before, the broker looks at the first only.
            match publish(channel, &shop.names.exchange(), "order.delay", properties).await {
                Ok(()) => forged += 1,
                Err(error) => assert!(is_refusal(&error), "{error}"),
            }
        }
        eventually("what was published has arrived", async || {
            world.depth(&shop.names.intake()).await == 1 + forged
        })
        .await;
        assert_eq!(world.depth("all").await, 0, "an event was forged");
        ours.close(200, "done".into()).await.expect("closed");
    })
    .await;
}

#[tokio::test]
async fn a_subscriber_hears_events_on_a_queue_of_its_own_and_reaches_nothing_of_ours() {
    World::with(async |world| {
        let shop = world.import_shop().await;
        may_touch_nothing(&shop, "subscriber").await;
        let (connection, channel) = shop.channel("subscriber").await;
        let queue = format!("{}mail", shop.names.subscribers());
        let (name, events) = (|| queue.as_str().into(), shop.names.events());
        let mut arguments = none();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(name(), QueueDeclareOptions::durable(), arguments).await.expect("declared");
        let bind = channel.queue_bind(
            name(),
            events.as_str().into(),
            "order.#".into(),
            QueueBindOptions::default(),
            none(),
        );
        bind.await.expect("bound");
        let (service, publishing) = shop.channel("service").await;
        publish(publishing, &events, "order.closed", BasicProperties::default()).await.expect("published");
        let consume = channel.basic_consume(name(), "".into(), BasicConsumeOptions::default(), none());
        let mut consumer = consume.await.expect("a consumer");
        let event =
            tokio::time::timeout(Duration::from_secs(300), consumer.next()).await.expect("an event in time");
        assert_eq!(event.expect("an event").expect("an event").routing_key.as_str(), "order.closed");

        refused(&connection, "hearing our own messages", async |channel| {
            let exchange = shop.names.exchange();
            channel.queue_bind(name(), exchange.into(), "#".into(), QueueBindOptions::default(), none()).await
        })
        .await;
        refused(&connection, "hearing them by an exchange", async |channel| {
            let own = format!("{}own", shop.names.subscribers());
            let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            channel.exchange_declare(own.as_str().into(), ExchangeKind::Topic, durable, none()).await?;
            let exchange = shop.names.exchange();
            let options = ExchangeBindOptions::default();
            channel.exchange_bind(own.into(), exchange.into(), "#".into(), options, none()).await
        })
        .await;
        refused(&connection, "dead-lettering into our exchange", async |channel| {
            let mut arguments = none();
            arguments
                .insert("x-dead-letter-exchange".into(), AMQPValue::LongString(shop.names.exchange().into()));
            let name = format!("{}dead", shop.names.subscribers());
            channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await
        })
        .await;
        // It has no tag, so the management API does not know it.
        let management = shop.management("subscriber");
        assert_eq!(management.status("GET", &["queues", &world.name], json!(null)).await, 401);
        service.close(200, "done".into()).await.expect("closed");
    })
    .await;
}

#[tokio::test]
async fn the_operator_looks_and_touches_nothing() {
    World::with(async |world| {
        let shop = world.import_shop().await;
        may_touch_nothing(&shop, "operator").await;
        let management = shop.management("operator");
        let (vhost, queue, exchange) = (world.name.as_str(), shop.names.parked(), shop.names.exchange());
        for path in [&["queues", vhost][..], &["queues", vhost, &queue], &["bindings", vhost], &["policies", vhost]] {
            assert_eq!(management.status("GET", path, json!(null)).await, 200, "{path:?}");
        }
        let get = json!({"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"});
        let message = json!({"properties": {}, "routing_key": "order.process", "payload": "{}", "payload_encoding": "string"});
        let policy = json!({"pattern": ".", "definition": {"message-ttl": 1}, "apply-to": "queues"});
        let limited = json!({"password": "x", "tags": "administrator"});
        for (method, path, body) in [
            ("POST", &["queues", vhost, &queue, "get"][..], get),
            ("DELETE", &["queues", vhost, &queue, "contents"], json!(null)),
            ("DELETE", &["queues", vhost, &queue], json!(null)),
            ("PUT", &["queues", vhost, "mine"], json!({"durable": true})),
            ("POST", &["exchanges", vhost, &exchange, "publish"], message),
            ("DELETE", &["exchanges", vhost, &exchange], json!(null)),
            ("DELETE", &["bindings", vhost, "e", &exchange, "q", &queue, "order.parked"], json!(null)),
            ("PUT", &["policies", vhost, "mine"], policy.clone()),
            ("PUT", &["operator-policies", vhost, "mine"], policy),
            ("PUT", &["users", "mine"], limited),
            ("DELETE", &["vhosts", vhost], json!(null)),
        ] {
            let status = management.status(method, path, body).await;
            assert!((400..500).contains(&status), "{method} {path:?}: {status}");
        }
        assert_eq!(world.depth(&queue).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_pod_needs_no_more_than_the_services_user_has_and_that_user_can_verify() {
    World::with(async |world| {
        let shop = world.import_shop().await;
        world.stock(1, 10).await;
        let url = shop.url("service");
        let settings = ["--prefix", &shop.prefix, "--amqp-url", &url];
        // Right after the import. Before 3.12 only an administrator sees the feature flags.
        let (code, troubles) = world.verify(&[&["topology", "verify"], &settings[..]].concat()).await;
        assert!([0, 5].contains(&code), "{troubles:?}");
        assert!(troubles.iter().all(|(place, _, _)| place == "feature flags"), "{troubles:?}");
        let pod = world.process(&[&settings[..], &["--declare-topology", "false"]].concat());
        let order = world.place(Duration::from_secs(2), &[(1, 1)]).await;
        world.closed(order).await;
        eventually("every lane is well", async || {
            world.run(&[&["lanes"], &settings[..]].concat()).await.0 == 0
        })
        .await;
        pod.stopped().await;
        let service = shop.connect("service").await;
        refused(&service, "declaring", async |channel| {
            channel.queue_declare(shop.names.process().into(), QueueDeclareOptions::durable(), none()).await
        })
        .await;
        refused(&service, "deleting", async |channel| {
            channel.queue_delete(shop.names.process().into(), QueueDeleteOptions::default()).await
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_second_shops_users_take_nothing_from_the_first() {
    World::with(async |world| {
        let first = world.import_shop().await;
        let second = world.import_shop_of(world.second_prefix()).await;
        for (own, other) in [(&first, &second), (&second, &first)] {
            let (publisher, channel) = own.channel("publisher").await;
            publish(channel, &own.names.exchange(), "order.delay", BasicProperties::default())
                .await
                .expect("the other's import took nothing away");
            refused(&publisher, "announcing to the other shop", async |channel| {
                publish(channel, &other.names.exchange(), "order.delay", BasicProperties::default()).await
            })
            .await;
            let (service, channel) = own.channel("service").await;
            let consume = async |channel: Channel, queue: String| {
                channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), none()).await
            };
            consume(channel, own.names.process()).await.expect("the service takes its own wakes");
            refused(&service, "taking the other shop's wakes", async |channel| {
                consume(channel, other.names.process()).await
            })
            .await;
        }
        // Without a prefix the users are others again.
        let (code, plain, error) = world.run(&["topology", "export"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        let plain: serde_json::Value = serde_json::from_str(&plain).expect("JSON");
        let granted: Vec<_> = plain["permissions"].as_array().expect("permissions").iter().collect();
        for part in ["publisher", "service", "subscriber", "operator"] {
            assert!(granted.iter().any(|granted| granted["user"] == format!("overdue-{part}")));
            for shop in [&first, &second] {
                let replaced = granted.iter().any(|granted| granted["user"] == shop.names.user(part));
                assert!(!replaced, "the import would replace the permissions of {part}");
            }
        }
    })
    .await;
}
