-- The same with events.
DELETE FROM outbox WHERE is_wake = false AND id = ANY ($1) AND id BETWEEN $2 AND $3
