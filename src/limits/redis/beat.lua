-- One replica says that it lives. KEYS: the replicas, the epoch.
-- ARGV: shift, this replica, how long it counts as living (0: it leaves), the epoch to begin if there is none.
-- The epoch dies with the data: a new one tells replicas that what they knew to be counted is gone.
-- Answer: the time, how many replicas live, the epoch.
local ms, life = clock(ARGV[1]), tonumber(ARGV[3])
if life > 0 then
  redis.call('ZADD', KEYS[1], ms + life, ARGV[2])
else
  redis.call('ZREM', KEYS[1], ARGV[2])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ms)
redis.call('PEXPIRE', KEYS[1], 60000)
redis.call('SET', KEYS[2], ARGV[4], 'NX')
redis.call('PEXPIRE', KEYS[2], 600000)
return { ms, redis.call('ZCARD', KEYS[1]), tonumber(redis.call('GET', KEYS[2])) }
