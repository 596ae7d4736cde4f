package main

import (
	"encoding/json"
	"log"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

type order struct {
	OrderID         any `json:"order_id"`
	PaymentDeadline any `json:"payment_deadline,omitempty"`
}

func main() {
	connection, err := amqp.Dial(os.Getenv("AMQP_URL"))
	must(err)
	defer connection.Close()
	channel, err := connection.Channel()
	must(err)
	publish := func(what, outcome string, body any, message amqp.Publishing) {
		message.Body, err = json.Marshal(body)
		must(err)
		must(channel.Publish("dialects", "amqp091-go: "+what+" => "+outcome, false, false, message))
	}
	due := time.Date(2026, 1, 1, 0, 15, 0, 0, time.UTC)
	publish("a time.Time", "7", order{7, due}, amqp.Publishing{ContentType: "application/json"})
	publish("a time.Time elsewhere", "7", order{int64(7), due.In(time.FixedZone("", -8*3600))}, amqp.Publishing{})
	publish("a float64", "7", order{float64(7), due}, amqp.Publishing{ContentEncoding: "utf-8"})
	publish("a string tag", "9007199254740993", order{"9007199254740993", due}, amqp.Publishing{})
	publish("Unix()", "seconds or milliseconds", order{7, due.Unix()}, amqp.Publishing{})
	publish("a number with an x-delay", "7", 7, amqp.Publishing{Headers: amqp.Table{"x-delay": int32(900000)}})
	publish("a number with an expiration", "7", 7, amqp.Publishing{Expiration: "900000"})
	publish("time.Time's String()", "RFC 3339", order{7, due.String()}, amqp.Publishing{})
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
