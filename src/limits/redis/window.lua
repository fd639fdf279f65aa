-- One window per rule, a hash: 'r<slot>' calls and 't<slot>' tokens that passed in a slot, 'r' and 't' their sums,
-- 'o' and 'n' the oldest and the newest slot. A grid { slot = width in ms, reach = slots back that count } is as in slots.rs.
-- A script reads a window once with `roll`, changes what it read, and writes it once with `save`.
local function grid(slot, reach)
  return { slot = tonumber(slot), reach = tonumber(reach) }
end

-- A window outlives its newest slot by a little, never by much.
local function keep(key, grid)
  redis.call('PEXPIRE', key, (grid.reach + 4) * grid.slot)
end

-- Redis' own clock, so that replicas with different clocks agree. `shift` is 0 but in tests.
local function clock(shift)
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(shift)
end

-- The window as it stands at `ms`, without what has left it.
local function roll(key, grid, ms)
  local now = math.floor(ms / grid.slot)
  local head = redis.call('HMGET', key, 'r', 't', 'o', 'n', 'r' .. now, 't' .. now)
  local window = {
    key = key, grid = grid, now = now,
    r = tonumber(head[1] or 0), t = tonumber(head[2] or 0),
    o = tonumber(head[3] or now), n = tonumber(head[4] or -1),
    slots = { [now] = { r = tonumber(head[5] or 0), t = tonumber(head[6] or 0) } },
  }
  local first = now - grid.reach
  if window.n >= 0 and (window.n < first or window.n > now + grid.reach) then
    -- All of it has left; or the clock was set back so far that nothing in it means anything.
    redis.call('DEL', key)
    return { key = key, grid = grid, now = now, r = 0, t = 0, o = now, n = -1, slots = { [now] = { r = 0, t = 0 } } }
  end
  if window.o < first then
    local fields = {}
    for slot = window.o, first - 1 do
      fields[#fields + 1] = 'r' .. slot
      fields[#fields + 1] = 't' .. slot
    end
    local gone = redis.call('HMGET', key, unpack(fields))
    for i = 1, #gone, 2 do
      window.r = window.r - tonumber(gone[i] or 0)
      window.t = window.t - tonumber(gone[i + 1] or 0)
    end
    window.o = first
    redis.call('HDEL', key, unpack(fields))
    redis.call('HSET', key, 'r', window.r, 't', window.t, 'o', first)
  end
  return window
end

-- Reads the slots of this span that were not read yet.
local function load(window, from, to)
  local slots, fields = {}, {}
  for slot = from, to do
    if not window.slots[slot] then
      slots[#slots + 1] = slot
      fields[#fields + 1] = 'r' .. slot
      fields[#fields + 1] = 't' .. slot
    end
  end
  if #slots == 0 then return end
  local there = redis.call('HMGET', window.key, unpack(fields))
  for i, slot in ipairs(slots) do
    window.slots[slot] = { r = tonumber(there[i * 2 - 1] or 0), t = tonumber(there[i * 2] or 0) }
  end
end

-- Counts calls and tokens in a slot that still counts.
local function add(window, slot, requests, tokens)
  load(window, slot, slot)
  local there = window.slots[slot]
  there.r, there.t, there.changed = there.r + requests, there.t + tokens, true
  window.r, window.t, window.changed = window.r + requests, window.t + tokens, true
  window.o = math.min(window.o, slot)
  if window.n < slot then window.n, window.fresh = slot, true end
end

-- Takes an amount of `kind` ('r' or 't') out of the slot in which it was counted; never more than is there.
local function take_back(window, kind, slot, amount)
  if slot < window.now - window.grid.reach then return end
  load(window, slot, slot)
  local there = window.slots[slot]
  local taken = math.min(there[kind], amount)
  if taken > 0 then
    there[kind], there.changed = there[kind] - taken, true
    window[kind], window.changed = window[kind] - taken, true
  end
end

-- Writes what was changed.
local function save(window)
  if not window.changed then return end
  local fields = { 'r', window.r, 't', window.t, 'o', window.o, 'n', window.n }
  for slot, there in pairs(window.slots) do
    if there.changed then
      local at = #fields
      fields[at + 1], fields[at + 2], fields[at + 3], fields[at + 4] = 'r' .. slot, there.r, 't' .. slot, there.t
    end
  end
  redis.call('HSET', window.key, unpack(fields))
  if window.fresh then keep(window.key, window.grid) end
end

-- When at least `excess` of `kind` ('r' or 't') has left the window.
local function freed_at(window, kind, excess)
  local slot, grid = window.o, window.grid
  while slot <= window.n do
    local last = math.min(slot + 31, window.n)
    load(window, slot, last)
    for s = slot, last do
      excess = excess - window.slots[s][kind]
      if excess <= 0 then return (s + 1 + grid.reach) * grid.slot end
    end
    slot = last + 1
  end
  return (window.n + 1 + grid.reach) * grid.slot
end
