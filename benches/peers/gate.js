// The check of the signature in nginx with njs. njs has no comparison that takes the same time for every signature.
// No freshness, no duplicates.
import crypto from 'crypto';

const secret = '@SECRET@';

function check(r) {
    const mac = crypto.createHmac('sha256', secret).update(r.requestBuffer).digest('hex');
    if (r.headersIn['X-Veedeo-Signature'] !== 'sha256=' + mac) {
        r.return(401);
        return;
    }
    r.internalRedirect('@app');
}

export default { check };
