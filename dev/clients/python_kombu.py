import os

from celery import Celery
from kombu import Connection, Exchange, Producer

order = {"order_id": 7, "payment_deadline": "2026-01-01T00:15:00+00:00"}
exchange = Exchange("dialects", "topic", auto_delete=True, durable=False)
with Connection(os.environ["AMQP_URL"]) as connection:
    producer = Producer(connection, exchange)

    def publish(what, outcome, body, **options):
        producer.publish(body, routing_key=f"kombu: {what} => {outcome}", **options)

    publish("serializer json", "7", order, serializer="json")
    publish("serializer pickle", "a Python pickle", order, serializer="pickle")
    publish("serializer yaml", "application/x-yaml", order, serializer="yaml")
    publish("serializer msgpack", "application/x-msgpack", order, serializer="msgpack")
    publish("compression gzip", "compressed (gzip)", order, serializer="json", compression="gzip")
    publish("compression bzip2", "compressed (bz2)", order, serializer="json", compression="bzip2")

for protocol in (1, 2):
    app = Celery(broker=os.environ["AMQP_URL"], set_as_current=False)
    app.conf.task_protocol = protocol
    routing_key = f"Celery: protocol {protocol} => a Celery task"
    app.send_task("shop.close", args=[7], exchange=exchange, routing_key=routing_key, declare=[])
