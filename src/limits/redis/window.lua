-- One window per rule, a hash: 'r<slot>' calls and 't<slot>' tokens that passed in a slot, 'r' and 't' their sums,
-- 'o' and 'n' the oldest and the newest slot. A grid { slot = width in ms, reach = slots back that count } is as in slots.rs.
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

-- The window as it stands in slot `now`, without what has left it.
local function roll(key, grid, now)
  local head = redis.call('HMGET', key, 'r', 't', 'o', 'n', 'r' .. now, 't' .. now)
  local window = {
    key = key, grid = grid,
    r = tonumber(head[1] or 0), t = tonumber(head[2] or 0),
    o = tonumber(head[3] or now), n = tonumber(head[4] or -1),
    r_now = tonumber(head[5] or 0), t_now = tonumber(head[6] or 0),
  }
  local first = now - grid.reach
  if window.n >= 0 and (window.n < first or window.n > now + grid.reach) then
    -- All of it has left; or the clock was set back so far that nothing in it means anything.
    redis.call('DEL', key)
    return { key = key, grid = grid, r = 0, t = 0, o = now, n = -1, r_now = 0, t_now = 0 }
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

-- Counts calls and tokens in slot `now`, for which the window was rolled.
local function add(window, now, requests, tokens)
  window.r, window.t = window.r + requests, window.t + tokens
  window.r_now, window.t_now = window.r_now + requests, window.t_now + tokens
  window.o = math.min(window.o, now)
  local fresh = window.n < now
  window.n = math.max(window.n, now)
  redis.call('HSET', window.key, 'r', window.r, 't', window.t, 'o', window.o, 'n', window.n,
    'r' .. now, window.r_now, 't' .. now, window.t_now)
  if fresh then keep(window.key, window.grid) end
end

-- When at least `excess` of `kind` ('r' or 't') has left the window.
local function freed_at(window, kind, excess)
  local slot, grid = window.o, window.grid
  while slot <= window.n do
    local last, fields = math.min(slot + 31, window.n), {}
    for s = slot, last do fields[#fields + 1] = kind .. s end
    for i, amount in ipairs(redis.call('HMGET', window.key, unpack(fields))) do
      excess = excess - tonumber(amount or 0)
      if excess <= 0 then return (slot + i + grid.reach) * grid.slot end
    end
    slot = last + 1
  end
  return (window.n + 1 + grid.reach) * grid.slot
end
