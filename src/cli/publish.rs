//! `overdue publish`: an order-created message, as an outside service sends it.

use std::time::Duration;

use clap::ValueEnum;
use lapin::BasicProperties;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{CliError, Context};
use crate::broker::Broker;
use crate::broker::publisher::Publisher;
use crate::wire::keys::KEY_DELAY;
use crate::wire::outgoing::Outgoing;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The order's number
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    order_id: i64,
    /// When to look at it: a time from now, such as 15m
    #[arg(long = "in", value_parser = humantime::parse_duration, conflicts_with = "deadline", required_unless_present = "deadline")]
    delay: Option<Duration>,
    /// When to look at it: RFC 3339, such as 2026-01-01T12:00:00Z
    #[arg(long, value_parser = deadline)]
    deadline: Option<OffsetDateTime>,
    /// Which of the accepted forms the message takes
    #[arg(long, value_enum, default_value_t = Form::Json)]
    form: Form,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// {"order_id": 1, "payment_deadline": "…"}
    Json,
    /// {"order_id": 1}, the delay as the message's expiration
    Delay,
    /// 1, the delay as the message's expiration
    Bare,
    /// CloudEvents 1.0, structured JSON
    Cloudevent,
}

fn deadline(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "not a time with its offset, such as 2026-01-01T12:00:00Z".to_owned())
}

pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let config = context.broker_config()?;
    let message = message(&args)?;
    // An outside service declares nothing: it needs only the permission to write to the exchange.
    let broker = Broker::new(&config).declaring(false);
    let publisher = Publisher::connect(&broker, "publish").await?;
    let body = String::from_utf8_lossy(&message.body).into_owned();
    publisher.publish(vec![message]).await?;
    publisher.close().await;
    let text = format!("published to {} with key {KEY_DELAY}, confirmed: {body}", broker.topology.exchange);
    context.out.done(
        &text,
        json!({"exchange": broker.topology.exchange, "key": KEY_DELAY, "body": body, "confirmed": true}),
    );
    Ok(())
}

fn message(args: &Args) -> Result<Outgoing, CliError> {
    let now = OffsetDateTime::now_utc();
    let at = args.deadline.unwrap_or(now + args.delay.unwrap_or_default());
    let delay = u32::try_from((at - now).whole_milliseconds().max(0)).map_err(|_| {
        CliError::Usage("--in or --deadline: further away than 49 days, the longest expiration".into())
    });
    let at = at.format(&Rfc3339).map_err(|error| CliError::Usage(format!("--deadline: {error}")))?;
    let order = json!({"order_id": args.order_id, "payment_deadline": at});
    let json = BasicProperties::default().with_content_type("application/json".into());
    let (body, properties) = match args.form {
        Form::Json => (order, json),
        Form::Delay => (json!({"order_id": args.order_id}), json.with_expiration(delay?.to_string().into())),
        Form::Bare => (json!(args.order_id), json.with_expiration(delay?.to_string().into())),
        Form::Cloudevent => {
            let event = json!({
                "specversion": "1.0", "id": format!("created-{}", args.order_id), "source": "/overdue/publish",
                "type": "order.created", "datacontenttype": "application/json", "data": order,
            });
            (event, BasicProperties::default().with_content_type("application/cloudevents+json".into()))
        }
    };
    Ok(Outgoing {
        key: KEY_DELAY.to_owned(),
        body: body.to_string().into_bytes(),
        properties,
        mandatory: true,
    })
}
