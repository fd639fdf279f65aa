-- What ended calls give back: their places, and what they reserved and did not use. What they used beyond is charged now.
-- KEYS: per entry a window and its leases. ARGV: shift; then per entry the time of admission, the change in calls, the
-- change in tokens, the lease, and the window's grid.
local ms = clock(ARGV[1])

local function take_back(key, kind, slot, amount)
  local counted = tonumber(redis.call('HGET', key, kind .. slot) or 0)
  local taken = math.min(counted, amount)
  if taken > 0 then
    redis.call('HINCRBY', key, kind .. slot, -taken)
    redis.call('HINCRBY', key, kind, -taken)
  end
end

for i = 1, #KEYS / 2 do
  local window, leases, at = KEYS[i * 2 - 1], KEYS[i * 2], i * 6 - 4
  local requests, tokens = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local grid = grid(ARGV[at + 4], ARGV[at + 5])
  local slot, now = math.floor(tonumber(ARGV[at]) / grid.slot), math.floor(ms / grid.slot)
  redis.call('ZREM', leases, ARGV[at + 3])
  if slot >= now - grid.reach then
    if requests < 0 then take_back(window, 'r', slot, -requests) end
    if tokens < 0 then take_back(window, 't', slot, -tokens) end
  end
  if tokens > 0 then add(roll(window, grid, now), now, 0, tokens) end
end
return 0
