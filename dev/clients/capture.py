"""Runs a command that publishes to the exchange `dialects`, and prints a line for each message that it published.

A line: the routing key (`client: what => outcome`), the properties that decide how the body is read, and the body in hex.
"""
import json
import os
import subprocess
import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
channel.exchange_declare("dialects", "topic", auto_delete=True)
queue = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(queue, "dialects", "#")
subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)

while True:
    method, properties, body = channel.basic_get(queue, auto_ack=True)
    if method is None:
        break
    fields = [(name, getattr(properties, name)) for name in ("content_type", "content_encoding", "expiration", "type")]
    fields += [(name, (properties.headers or {}).get(name)) for name in ("x-delay", "compression")]
    shown = {name: value for name, value in fields if value is not None}
    print(f"{method.routing_key} | {json.dumps(shown)} | {body.hex()}")
connection.close()
