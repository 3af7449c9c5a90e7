-- $partition, $since, $here: keys of committed events that arrived at or after $since and stand, or belong, in the
-- partition, and the hour each arrived in. $here is the condition for that.
SELECT "key", (epoch_us(arrived) // 3600000000)::INTEGER AS arrived_hour
FROM charges
WHERE ($here) AND arrived >= $since
UNION ALL
SELECT "key", (epoch_us(arrived) // 3600000000)::INTEGER AS arrived_hour
FROM node_events
WHERE ($here) AND arrived >= $since
