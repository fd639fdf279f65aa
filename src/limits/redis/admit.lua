-- One call: takes it from every rule, or nothing from any.
-- KEYS: per rule its window and its leases.
-- ARGV: shift, the latest moment at which anybody still waits for the answer, lease, tokens, how long a lease
-- lives, when to ask again for a place; then per rule its requests, tokens and concurrent calls, -1 where it does not limit,
-- and its grid.
-- Answer: verdict (0 admitted, 1 refused, 2 too late), the time, which rule refused, by which figure, for how long;
-- then per rule the calls and tokens in its window, its newest slot, and its running calls.
local shift, latest, lease, tokens = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local life, ask_again = tonumber(ARGV[5]), tonumber(ARGV[6])
local ms = clock(shift)
if ms > latest then return { 2, ms, 0, 0, 0 } end

local rules, which, figure, longest = {}, 0, 0, -1
local function refuse(rule, by, wait)
  if wait > longest then which, figure, longest = rule, by, wait end
end
for i = 1, #KEYS / 2 do
  local at = 2 + i * 5
  local requests, spend, concurrent = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local rule = { counts = requests >= 0 or spend >= 0, leases = concurrent >= 0 and KEYS[i * 2], running = 0 }
  if rule.counts then
    local grid = grid(ARGV[at + 3], ARGV[at + 4])
    rule.now = math.floor(ms / grid.slot)
    rule.window = roll(KEYS[i * 2 - 1], grid, rule.now)
    local over = rule.window.r + 1 - requests
    if requests >= 0 and over > 0 then refuse(i, 0, freed_at(rule.window, 'r', over) - ms) end
    over = rule.window.t + tokens - spend
    if spend >= 0 and over > 0 then refuse(i, 1, freed_at(rule.window, 't', over) - ms) end
  end
  if rule.leases then
    rule.running = redis.call('ZCARD', rule.leases)
    if rule.running >= concurrent then
      redis.call('ZREMRANGEBYSCORE', rule.leases, '-inf', ms)
      rule.running = redis.call('ZCARD', rule.leases)
      if rule.running >= concurrent then refuse(i, 2, ask_again) end
    end
  end
  rules[i] = rule
end

local answer = { longest >= 0 and 1 or 0, ms, which - 1, figure, longest }
for _, rule in ipairs(rules) do
  if longest < 0 then
    if rule.counts then add(rule.window, rule.now, 1, tokens) end
    if rule.leases then
      redis.call('ZADD', rule.leases, ms + life, lease)
      redis.call('PEXPIRE', rule.leases, life * 2)
      rule.running = rule.running + 1
    end
  end
  local window = rule.window or { r = 0, t = 0, n = -1 }
  answer[#answer + 1] = window.r
  answer[#answer + 1] = window.t
  answer[#answer + 1] = window.n
  answer[#answer + 1] = rule.running
end
return answer
