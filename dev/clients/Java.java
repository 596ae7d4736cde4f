import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import java.io.ByteArrayOutputStream;
import java.io.ObjectOutputStream;
import java.math.BigInteger;
import java.time.Instant;
import java.time.ZoneId;
import java.util.Collections;
import java.util.HashMap;

public class Java {
    static Channel channel;

    /** As Spring AMQP's SimpleMessageConverter does it. */
    static byte[] serialized(Object object) throws Exception {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (ObjectOutputStream out = new ObjectOutputStream(bytes)) {
            out.writeObject(object);
        }
        return bytes.toByteArray();
    }

    static void publish(String what, String outcome, byte[] body, BasicProperties.Builder properties) throws Exception {
        channel.basicPublish("dialects", "Java: " + what + " => " + outcome, properties.build(), body);
    }

    static byte[] order(Object deadline) {
        return ("{\"order_id\":7,\"payment_deadline\":\"" + deadline + "\"}").getBytes();
    }

    static BasicProperties.Builder spring(String type) {
        return new BasicProperties.Builder().contentType(type).expiration("900000").headers(Collections.emptyMap());
    }

    public static void main(String[] arguments) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(System.getenv("AMQP_URL"));
        try (Connection connection = factory.newConnection()) {
            channel = connection.createChannel();
            channel.confirmSelect();
            String java = "application/x-java-serialized-object";
            publish("a Long", "7", serialized(7L), spring(java));
            publish("a large Long", "9007199254740993", serialized(9007199254740993L), spring(java));
            publish("an Integer", "7", serialized(7), spring(java));
            publish("a String with a number", "7", serialized("7"), spring(java));
            publish("a String with JSON", "7", serialized("{\"order_id\": 7}"), spring(java));
            publish("a String with words", "not JSON", serialized("order seven"), spring(java));
            publish("a HashMap", "java.util.HashMap", serialized(new HashMap<String, Long>()), spring(java));
            publish("a BigInteger", "java.math.BigInteger", serialized(BigInteger.ONE), spring(java));
            publish("an array", "[J", serialized(new long[] {7}), spring(java));
            publish("a Long that nobody declares", "7", serialized(7L), new BasicProperties.Builder().expiration("900000"));
            publish("text with its charset", "7", "7".getBytes(), spring("text/plain").contentEncoding("UTF-8"));

            Instant due = Instant.parse("2026-01-01T00:15:00Z");
            BasicProperties.Builder json = new BasicProperties.Builder().contentType("application/json");
            publish("an Instant", "7", order(due), json);
            publish("an OffsetDateTime", "7", order(due.atZone(ZoneId.of("UTC")).toOffsetDateTime()), json);
            publish("a ZonedDateTime", "7", order(due.atZone(ZoneId.of("Europe/Berlin"))), json);
            publish("a LocalDateTime", "LocalDateTime", order(due.atZone(ZoneId.of("UTC")).toLocalDateTime()), json);
            channel.waitForConfirmsOrDie();
        }
    }
}
