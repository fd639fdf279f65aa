-- What a replica let pass while nobody counted for all. KEYS: one window.
-- ARGV: shift, the window's grid; then per slot how many slots ago, calls, tokens.
local grid = grid(ARGV[2], ARGV[3])
local now = math.floor(clock(ARGV[1]) / grid.slot)
local window = roll(KEYS[1], grid, now)
for i = 4, #ARGV, 3 do
  local slot, requests, tokens = now - tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  if slot >= now - grid.reach then
    local there = redis.call('HMGET', KEYS[1], 'r' .. slot, 't' .. slot)
    window.r_now, window.t_now = tonumber(there[1] or 0), tonumber(there[2] or 0)
    add(window, slot, requests, tokens)
  end
end
keep(KEYS[1], grid)
return 0
