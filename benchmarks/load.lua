-- What wrk sends: a body per request, the keys in turn, every client_order_id its own.
-- The load is a table in the file named by LOAD; LOAD_PER_REQUEST orders go in one request. All are
-- of one size and near one price, so that each comes to rest or trades with one that rests: an
-- order has half a trade, and the book stays small.

local load_file = os.getenv("LOAD")
local per_request = tonumber(os.getenv("LOAD_PER_REQUEST") or "1")
local pause_ms = tonumber(os.getenv("LOAD_PAUSE_MS") or "0")
local mark = os.getenv("LOAD_MARK") or "w"
local conf = dofile(load_file)
local threads = 0
local LOTS = 3

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(args)
  math.randomseed(1000 + number)
  count = 0
  key = math.random(#conf.members) - 1
end

local function one(member)
  count = count + 1
  local side = math.random(2) == 1 and "buy" or "sell"
  local away = math.random(-1, 1)
  if side == "buy" then away = -away end
  return conf.order(member, side, conf.middle + away, LOTS,
    string.format("%s-%d-%d", mark, number, count))
end

function request()
  key = (key + 1) % #conf.members
  local member = conf.members[key + 1]
  local body
  if per_request == 1 and not conf.batch then
    body = one(member)
  else
    local parts = {}
    for i = 1, per_request do parts[i] = one(member) end
    body = conf.batch(parts)
  end
  return wrk.format("POST", conf.path, conf.headers(member), body)
end

if pause_ms > 0 then
  function delay()
    return math.random() * 2 * pause_ms
  end
end

function done(summary, latency, requests)
  io.write(string.format(
    '\nRESULT {"requests": %d, "seconds": %.4f, "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f, ' ..
    '"refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
