-- What a replica let pass while nobody counted for all. KEYS: one window.
-- ARGV: shift; then per slot how many slots ago, calls, tokens.
local now = math.floor(clock(ARGV[1]) / SLOT)
local window = roll(KEYS[1], now)
for i = 2, #ARGV, 3 do
  local slot, requests, tokens = now - tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  if slot >= now - REACH then
    local there = redis.call('HMGET', KEYS[1], 'r' .. slot, 't' .. slot)
    window.r_now, window.t_now = tonumber(there[1] or 0), tonumber(there[2] or 0)
    add(window, slot, requests, tokens)
  end
end
redis.call('PEXPIRE', KEYS[1], LIFE)
return 0
