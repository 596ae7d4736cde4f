-- Events that were published, or kept among the refused ($1); the bounds as in delete_wakes.sql.
DELETE FROM outbox WHERE is_wake = false AND id = ANY ($1) AND id BETWEEN $2 AND $3
