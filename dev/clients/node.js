const amqp = require("amqplib");
const { ClientProxyFactory, Transport } = require("@nestjs/microservices");
const { lastValueFrom } = require("rxjs");
const zlib = require("zlib");

const due = new Date("2026-01-01T00:15:00Z");
const order = (deadline, id = 7) => JSON.stringify({ order_id: id, payment_deadline: deadline });

async function main() {
  const connection = await amqp.connect(process.env.AMQP_URL);
  const channel = await connection.createConfirmChannel();
  const publish = (client, what, outcome, body, options = {}) =>
    channel.publish("dialects", `${client}: ${what} => ${outcome}`, Buffer.from(body), options);

  publish("amqplib", "toISOString()", "7", order(due.toISOString()), { contentType: "application/json" });
  publish("amqplib", "a Date", "7", order(due), { contentEncoding: "utf8", contentType: "application/json; charset=utf-8" });
  publish("amqplib", "an id beyond 2^53, as a string", "9007199254740993", order(due, "9007199254740993"));
  publish("amqplib", "an id beyond 2^53, as a number", "9007199254740992", order(due, 9007199254740993));
  publish("amqplib", "getTime()", "toISOString()", order(due.getTime()));
  publish("amqplib", "toString()", "RFC 3339", order(due.toString()));
  publish("amqplib", "a number with an x-delay", "7", "7", { headers: { "x-delay": 900000 } });
  publish("amqplib", "a number as JSON string", "7", JSON.stringify("7"), { expiration: "900000" });
  publish("amqplib", "gzip", "compressed (gzip)", zlib.gzipSync(order(due)), { contentEncoding: "gzip" });
  publish("amqplib", "gzip that nobody declares", "compressed (gzip)", zlib.gzipSync(order(due)));
  publish("amqplib", "brotli", "compressed (br)", zlib.brotliCompressSync(order(due)), { contentEncoding: "br" });
  await channel.waitForConfirms();

  // NestJS publishes to a queue, whose messages are moved to the exchange.
  const queue = "dialects.nest";
  await channel.assertQueue(queue, { durable: false });
  const nest = ClientProxyFactory.create({
    transport: Transport.RMQ,
    options: { urls: [process.env.AMQP_URL], queue, queueOptions: { durable: false }, noAck: true },
  });
  await nest.connect();
  await lastValueFrom(nest.emit("order.created", { order_id: 7, payment_deadline: due }), { defaultValue: null });
  let message = false;
  while (!message) message = await channel.get(queue, { noAck: true });
  publish("NestJS", "emit()", "a NestJS message", message.content, message.properties);
  await channel.waitForConfirms();
  await nest.close();
  await channel.deleteQueue(queue);
  await connection.close();
  process.exit(0);
}
main();
