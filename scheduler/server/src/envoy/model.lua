-- Which model, pipeline or experiment is a request for that does not say so in the header seldon-model?
-- The header chooses the scope; changing it makes Envoy choose anew.

-- Calls about the whole installation go to the agents, those of load balancers are answered by Envoy.
local PATHS = {
  ["/v2/health/live"] = ".mesh",
  ["/v2/health/ready"] = ".mesh",
  ["/v2"] = ".mesh",
  ["/v2/"] = ".mesh",
  ["/ready"] = ".ready",
}
local METHODS = { ServerLive = ".mesh", ServerReady = ".mesh", ServerMetadata = ".mesh" }

-- Longest name that can exist, with room for ".experiment".
local LONGEST = 300

local function in_message(handle)
  local found = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.grpc_field_extraction")
  local values = found and found["model"]
  return values and values[1]
end

local function in_path(handle, path)
  local model = string.match(path, "^/v2/models/([^/?]+)")
  if model then return model end
  local pipeline = string.match(path, "^/v2/pipelines/([^/?]+)")
  if pipeline then return pipeline .. ".pipeline" end
  local method = string.match(path, "^/inference%.GRPCInferenceService/(%a+)$")
  if method then return METHODS[method] or in_message(handle) end
  return PATHS[string.match(path, "^[^?]*")]
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local given = headers:get("seldon-model")
  if given and given ~= "" then return end
  local name = in_path(handle, headers:get(":path") or "")
  -- A message may say anything; only what can be a name becomes a header.
  if name and #name <= LONGEST and string.find(name, "^[%w%.%-_]+$") then
    headers:replace("seldon-model", name)
    -- Asking for the route makes Envoy choose it now. Otherwise it has no name yet when the next filter asks for that.
    handle:metadata()
  end
end
