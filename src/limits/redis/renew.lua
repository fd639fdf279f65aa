-- Renews the leases of calls that still run; puts back those that a restart lost.
-- KEYS: per lease the set it is in. ARGV: shift, how long a lease lives, then the leases.
local ms, life = clock(ARGV[1]), tonumber(ARGV[2])
for i, leases in ipairs(KEYS) do
  redis.call('ZADD', leases, ms + life, ARGV[2 + i])
  redis.call('PEXPIRE', leases, life * 2)
end
return 0
