import json
import os
from urllib.parse import quote, urlsplit

from proton import Message, symbol
from proton.utils import BlockingConnection

url = urlsplit(os.environ["AMQP_URL"])
order = {"order_id": 7, "payment_deadline": "2026-01-01T00:15:00Z"}
connection = BlockingConnection(f"amqp://{url.hostname}:{url.port}", user=url.username, password=url.password)


def publish(what, outcome, body, **fields):
    key = quote(f"AMQP 1.0: {what} => {outcome}", safe="")
    sender = connection.create_sender(f"/exchanges/dialects/{key}")
    sender.send(Message(body=body, **fields))
    sender.close()


text = json.dumps(order)
publish("a data section", "7", text.encode(), inferred=True, content_type=symbol("application/json"))
publish("a value section with text", "an AMQP 1.0 value", text)
publish("a value section with a map", "an AMQP 1.0 value", order)
publish("a value section with a number", "an AMQP 1.0 value", 7)
publish("a data section with a time to live", "7", b'{"order_id": 7}', inferred=True, ttl=900)
connection.close()
