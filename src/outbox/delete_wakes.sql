-- Wakes that were published ($1), of which the first is $2 and the last $3. Without these bounds, statistics from a time with
-- few wakes let the planner walk over all that wait, for each batch: after a long outage nothing was relayed any more.
DELETE FROM outbox WHERE is_wake = true AND id = ANY ($1) AND id BETWEEN $2 AND $3
