require 'bunny'
require 'json'
require 'time'

connection = Bunny.new(ENV.fetch('AMQP_URL')).start
channel = connection.create_channel
channel.confirm_select
EXCHANGE = channel.exchange('dialects', type: :topic, auto_delete: true)

def publish(what, outcome, body, **options)
  EXCHANGE.publish(body, routing_key: "bunny: #{what} => #{outcome}", **options)
end

def order(deadline)
  { order_id: 7, payment_deadline: deadline }.to_json
end

due = Time.utc(2026, 1, 1, 0, 15)
publish('iso8601', '7', order(due.iso8601), content_type: 'application/json')
publish('Time#to_s in UTC', '7', order(due.to_s))
publish('Time#to_s elsewhere', '7', order(due.getlocal('+01:00').to_s))
publish('Time#to_i', 'seconds or milliseconds', order(due.to_i))
publish('Marshal', "Ruby's Marshal format", Marshal.dump({ order_id: 7 }))
publish('a number with an x-delay', '7', '7', headers: { 'x-delay' => 900_000 })
publish('a number with an expiration', '7', '7', expiration: 900_000)
publish('a job', 'an Active Job',
        { job_class: 'CloseOrder', job_id: '5d3f2a', queue_name: 'default', arguments: [7] }.to_json)
channel.wait_for_confirms
connection.close
