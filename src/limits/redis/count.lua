-- A batch: calls that ended give back what they held, then calls that come are taken, in their order. Each of them is taken
-- from every rule it obeys, or from none. What ended makes room for what comes.
-- KEYS: per rule its window and its leases.
-- ARGV: the replica; then, in numbers of eight bytes each, big end first:
-- shift, the latest moment at which anybody still waits for the answers, how long a lease lives, when to ask again for a
-- place, how many calls ended;
-- per rule its requests, tokens and concurrent calls, -1 where it does not limit, and its grid;
-- per call that ended: when it was admitted, the change in calls, the change in tokens, its lease, how many rules, which;
-- per call that comes: its lease, tokens, how many rules, which.
-- Answer, in the same kind of numbers: the time, and nothing more if it is too late for those that come; else per rule the calls
-- and tokens in its window, its newest slot and its running calls, as they are after the whole batch; then per call that comes
-- which of its rules refused (0: none), by which figure, for how long.
local CHUNK = 128
local function pack(numbers)
  local parts = {}
  for from = 1, #numbers, CHUNK do
    local to = math.min(from + CHUNK - 1, #numbers)
    parts[#parts + 1] = struct.pack('>' .. string.rep('i8', to - from + 1), unpack(numbers, from, to))
  end
  return table.concat(parts)
end
local told, chunk, at = ARGV[2], {}, 0
local function number()
  local place = at % CHUNK
  if place == 0 then
    local count = math.min(CHUNK, #told / 8 - at)
    chunk = { struct.unpack('>' .. string.rep('i8', count), told, at * 8 + 1) }
  end
  at = at + 1
  return chunk[place + 1]
end

local replica, ms, latest = ARGV[1] .. '-', clock(number()), number()
local life, ask_again, ended = number(), number(), number()

-- Rules that differ only in their figures share a window, and places.
local rules, windows, places = {}, {}, {}
for i = 1, #KEYS, 2 do
  local rule = { requests = number(), tokens = number(), concurrent = number() }
  local grid = grid(number(), number())
  if rule.requests >= 0 or rule.tokens >= 0 then
    windows[KEYS[i]] = windows[KEYS[i]] or roll(KEYS[i], grid, ms)
    rule.window = windows[KEYS[i]]
  end
  if rule.concurrent >= 0 then
    local key = KEYS[i + 1]
    places[key] = places[key] or { key = key, left = {}, taken = {} }
    rule.places = places[key]
  end
  rules[#rules + 1] = rule
end

for _ = 1, ended do
  local admitted, requests, tokens, lease = number(), number(), number(), replica .. number()
  for _ = 1, number() do
    local rule = rules[number()]
    local window = rule.window
    if rule.places then rule.places.left[#rule.places.left + 1] = lease end
    if window then
      local slot = math.floor(admitted / window.grid.slot)
      if requests < 0 then take_back(window, 'r', slot, -requests) end
      if tokens < 0 then take_back(window, 't', slot, -tokens) end
      -- What was used beyond what was reserved is charged now.
      if tokens > 0 then add(window, window.now, 0, tokens) end
    end
  end
end
for _, set in pairs(places) do
  if #set.left > 0 then redis.call('ZREM', set.key, unpack(set.left)) end
  set.running = redis.call('ZCARD', set.key)
end

local which, figure, longest
local function refuse(index, by, wait)
  if wait > longest then which, figure, longest = index, by, wait end
end
-- Places of calls that crashed are found only when they are needed.
local function full(set, concurrent)
  if set.running >= concurrent and not set.swept then
    redis.call('ZREMRANGEBYSCORE', set.key, '-inf', ms)
    set.running, set.swept = redis.call('ZCARD', set.key) + #set.taken / 2, true
  end
  return set.running >= concurrent
end
local function ask(index, rule, tokens)
  local window = rule.window
  if window then
    local over = window.r + 1 - rule.requests
    if rule.requests >= 0 and over > 0 then refuse(index, 0, freed_at(window, 'r', over) - ms) end
    over = window.t + tokens - rule.tokens
    if rule.tokens >= 0 and over > 0 then refuse(index, 1, freed_at(window, 't', over) - ms) end
  end
  if rule.places and full(rule.places, rule.concurrent) then refuse(index, 2, ask_again) end
end
local function take(rule, lease, tokens)
  if rule.window then add(rule.window, rule.window.now, 1, tokens) end
  if rule.places then
    local taken = rule.places.taken
    taken[#taken + 1], taken[#taken + 2] = ms + life, lease
    rule.places.running = rule.places.running + 1
  end
end

local verdicts = {}
while ms <= latest and at < #told / 8 do
  local lease, tokens, asked = replica .. number(), number(), {}
  which, figure, longest = 0, 0, -1
  for index = 1, number() do
    asked[index] = rules[number()]
    ask(index, asked[index], tokens)
  end
  if which == 0 then
    for _, rule in ipairs(asked) do take(rule, lease, tokens) end
  end
  local last = #verdicts
  verdicts[last + 1], verdicts[last + 2], verdicts[last + 3] = which, figure, longest
end

for _, window in pairs(windows) do save(window) end
for _, set in pairs(places) do
  if #set.taken > 0 then
    redis.call('ZADD', set.key, unpack(set.taken))
    redis.call('PEXPIRE', set.key, life * 2)
  end
end
local answer = { ms }
if ms > latest then return pack(answer) end
for _, rule in ipairs(rules) do
  local window, last = rule.window or { r = 0, t = 0, n = -1 }, #answer
  answer[last + 1], answer[last + 2], answer[last + 3] = window.r, window.t, window.n
  answer[last + 4] = rule.places and rule.places.running or 0
end
for _, verdict in ipairs(verdicts) do answer[#answer + 1] = verdict end
return pack(answer)
