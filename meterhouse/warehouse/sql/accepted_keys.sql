-- $partition, $since: keys of committed events that arrived at or after $since, and the hour each arrived in.
SELECT "key", (epoch_us(arrived) // 3600000000)::INTEGER AS arrived_hour
FROM charges
WHERE "partition" = $partition AND arrived >= $since
UNION ALL
SELECT "key", (epoch_us(arrived) // 3600000000)::INTEGER AS arrived_hour
FROM node_events
WHERE "partition" = $partition AND arrived >= $since
