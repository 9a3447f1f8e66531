-- The check of the signature in nginx with Lua as one would write it with a packaged library: its HMAC is made anew for each
-- request, turned into hexadecimal digits in Lua and compared with `==`. No freshness, no duplicates.
local hmac = require "openssl.hmac"

local secret = "@SECRET@"

local function check()
    ngx.req.read_body()
    local digest = hmac.new(secret, "sha256"):final(ngx.req.get_body_data())
    local hex = digest:gsub(".", function(byte) return string.format("%02x", byte:byte()) end)
    if ngx.req.get_headers()["x-veedeo-signature"] ~= "sha256=" .. hex then
        return ngx.exit(401)
    end
end

return { check = check }
