-- What ended calls give back: their places, and what they reserved and did not use. What they used beyond is charged now.
-- KEYS: per entry a window and its leases. ARGV: shift; then per entry the slot of admission, the change in calls, the
-- change in tokens, and the lease.
local now = math.floor(clock(ARGV[1]) / SLOT)

local function take_back(key, kind, slot, amount)
  local counted = tonumber(redis.call('HGET', key, kind .. slot) or 0)
  local taken = math.min(counted, amount)
  if taken > 0 then
    redis.call('HINCRBY', key, kind .. slot, -taken)
    redis.call('HINCRBY', key, kind, -taken)
  end
end

for i = 1, #KEYS / 2 do
  local window, leases, at = KEYS[i * 2 - 1], KEYS[i * 2], i * 4 - 2
  local slot, requests, tokens = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  redis.call('ZREM', leases, ARGV[at + 3])
  if slot >= now - REACH then
    if requests < 0 then take_back(window, 'r', slot, -requests) end
    if tokens < 0 then take_back(window, 't', slot, -tokens) end
  end
  if tokens > 0 then add(roll(window, now), now, 0, tokens) end
end
return 0
