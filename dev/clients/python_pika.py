import json
import os
from datetime import datetime, timezone

import pika

channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
due = datetime(2026, 1, 1, 0, 15, tzinfo=timezone.utc)


def publish(what, outcome, body, **properties):
    channel.basic_publish("dialects", f"pika: {what} => {outcome}", body, pika.BasicProperties(**properties))


def order(deadline, order_id=7):
    return json.dumps({"order_id": order_id, "payment_deadline": deadline})


publish("isoformat() of an aware datetime", "7", order(due.isoformat()), content_type="application/json")
publish("str() of an aware datetime", "7", order(str(due)), content_encoding="utf-8")
publish("strftime with %z", "7", order(due.strftime("%Y-%m-%dT%H:%M:%S%z")), content_encoding="utf8")
publish("isoformat() of a naive datetime", "timezone.utc", order(due.replace(tzinfo=None).isoformat()))
publish("timestamp()", "WRITE_DATES_AS_TIMESTAMPS", order(due.timestamp()))
publish("text with a byte-order mark", "7", order(due.isoformat()).encode("utf-8-sig"), content_type="text/plain")
publish("text in UTF-16", "written in UTF-16", order(due.isoformat()).encode("utf-16"), content_type="text/plain")
publish("text with a NUL at its end", "0x00", order(due.isoformat()) + "\0")
publish("a number with an expiration", "7", "7", expiration="900000")
publish("a number with an x-delay", "7", "7", headers={"x-delay": 900000})
publish("a number with an x-delay in text", "7", "7", headers={"x-delay": "900000"})
publish("encoded twice", "encoded twice", json.dumps(order(due.isoformat())))
publish("a float", "7", order(due.isoformat(), 7.0))
channel.connection.close()
