//! The API server as a [`Transport`]: a function call in place of a connection, with admission and authorization as for everybody.

use controlplane_apiserver::{ApiServer, Caller};
use controlplane_client::{Body, Transport, TransportError};
use http::{Request, Response};
use std::future::Future;
use std::pin::Pin;

/// Calls an API server in this process as one fixed caller.
pub(crate) struct InProcess {
    api: ApiServer,
    caller: Caller,
}

impl InProcess {
    /// A transport for `caller`.
    pub(crate) fn new(api: ApiServer, caller: Caller) -> InProcess {
        InProcess { api, caller }
    }
}

impl Transport for InProcess {
    fn call(
        &self,
        mut request: Request<Body>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, TransportError>> + Send + '_>> {
        request.extensions_mut().insert(self.caller.clone());
        Box::pin(async move { Ok(self.api.handle(request).await) })
    }
}
