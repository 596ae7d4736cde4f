<?php
require_once 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPTable;

$url = parse_url(getenv('AMQP_URL'));
$vhost = urldecode(substr($url['path'] ?? '/', 1)) ?: '/';
$connection = new AMQPStreamConnection($url['host'], $url['port'], $url['user'], $url['pass'], $vhost);
$channel = $connection->channel();

function publish($what, $outcome, $body, $properties = [], $client = 'php-amqplib')
{
    global $channel;
    $channel->basic_publish(new AMQPMessage($body, $properties), 'dialects', "$client: $what => $outcome");
}

function order($deadline, $id = 7)
{
    return json_encode(['order_id' => $id, 'payment_deadline' => $deadline]);
}

date_default_timezone_set('UTC');
$due = new DateTime('2026-01-01T00:15:00Z');
$json = ['content_type' => 'application/json'];
publish('DATE_ATOM', '7', order($due->format(DATE_ATOM)), $json);
publish('DATE_ISO8601', '7', order($due->format(DATE_ISO8601)), $json);
publish('an id as MySQL drivers give it', '7', order($due->format(DATE_ATOM), '7'), $json);
publish('Y-m-d H:i:s', 'DATE_ATOM', order($due->format('Y-m-d H:i:s')), $json);
publish('time()', 'DATE_ATOM', order($due->getTimestamp()), $json);
publish('serialize()', "PHP's serialization format", serialize(['order_id' => 7]));
publish('a number with an x-delay', '7', '7', ['application_headers' => new AMQPTable(['x-delay' => 900000])]);
publish('a number with an expiration', '7', '7', ['expiration' => 900000, 'content_type' => 'text/plain']);
// Laravel is in no registry of the distribution: the form of its payloads, by its documentation.
publish('a job', 'a Laravel job', json_encode([
    'uuid' => '5d3f2a', 'displayName' => 'App\\Jobs\\CloseOrder', 'job' => 'Illuminate\\Queue\\CallQueuedHandler@call',
    'maxTries' => null, 'data' => ['commandName' => 'App\\Jobs\\CloseOrder', 'command' => serialize((object) ['id' => 7])],
]), $json, 'Laravel');
$connection->close();
