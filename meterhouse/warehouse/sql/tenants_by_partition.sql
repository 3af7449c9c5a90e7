-- Which tenants' events stand in which partition.
SELECT DISTINCT "partition", tenant::VARCHAR FROM rollup_day
UNION
SELECT DISTINCT "partition", tenant::VARCHAR FROM node_events
