-- The check of the signature in nginx with Lua, as one would write it who knows both: the key is set up once, the hash is
-- libcrypto's, the comparison takes the same time for every signature. No freshness, no duplicates.
local ffi = require "ffi"
local C = ffi.C

ffi.cdef [[
typedef struct evp_md_st EVP_MD;
typedef struct engine_st ENGINE;
typedef struct hmac_ctx_st HMAC_CTX;
const EVP_MD *EVP_sha256(void);
HMAC_CTX *HMAC_CTX_new(void);
int HMAC_Init_ex(HMAC_CTX *ctx, const void *key, int len, const EVP_MD *md, ENGINE *impl);
int HMAC_Update(HMAC_CTX *ctx, const char *data, size_t len);
int HMAC_Final(HMAC_CTX *ctx, unsigned char *md, unsigned int *len);
int CRYPTO_memcmp(const void *a, const void *b, size_t len);
unsigned char *ngx_hex_dump(unsigned char *dst, const unsigned char *src, size_t len);
]]

local secret = "@SECRET@"
local mac = C.HMAC_CTX_new()
assert(C.HMAC_Init_ex(mac, secret, #secret, C.EVP_sha256(), nil) == 1)
local digest = ffi.new("unsigned char[32]")
local hex = ffi.new("unsigned char[64]")
local ngx, var, req = ngx, ngx.var, ngx.req
local sub = string.sub

local function check()
    req.read_body()
    local body = req.get_body_data()
    local given = var.http_x_veedeo_signature
    if not body or not given or #given ~= 71 or sub(given, 1, 7) ~= "sha256=" then
        return ngx.exit(401)
    end
    C.HMAC_Init_ex(mac, nil, 0, nil, nil)
    C.HMAC_Update(mac, body, #body)
    C.HMAC_Final(mac, digest, nil)
    C.ngx_hex_dump(hex, digest, 32)
    if C.CRYPTO_memcmp(hex, ffi.cast("const char *", given) + 7, 64) ~= 0 then
        return ngx.exit(401)
    end
end

return { check = check }
