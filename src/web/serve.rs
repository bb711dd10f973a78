//! Serving an application on a listener, with TLS if there is a certificate to show.
//!
//! Almost what [`actix_web::HttpServer`] does. That one answers every `Expect: 100-continue` with `100 Continue` before
//! the application is asked. A client that is redirected after that has sent its body already, and the body goes nowhere:
//! when it came from a pipe it cannot be sent again, and the client may send an empty one to where it was redirected. So
//! requests whose body is left alone are answered by the application without a `100`, and the client keeps its body.

use std::any::Any;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::net::TcpListener;
use std::num::NonZero;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::{HttpService, HttpServiceBuilder, Request, Response, TlsAcceptorConfig};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, map_config};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, Server};
use futures_util::future::LocalBoxFuture;

use super::connections::{Connections, Limits};
use crate::security::tls::ServerCertificate;
use crate::types::Result;
use crate::types::error::IoContext;
use crate::types::limits::{KEEP_ALIVE_TIMEOUT, REQUEST_HEAD_TIMEOUT};

/// How long a connection that is closed is listened to, so that the other side reads what it was told.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Seconds that requests under way have at the end.
const SHUTDOWN_SECONDS: u64 = 3;

/// Begins to serve; the server is to be awaited. `leaves_body` says of which requests the body is never read.
pub fn serve<F, I, S, B>(
    certificate: Option<Arc<ServerCertificate>>,
    listener: TcpListener,
    leaves_body: fn(&Request) -> bool,
    app: F,
) -> Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    S::Service: 'static,
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let context = || "listening".to_string();
    let limits = Limits::of_process();
    let connections = Connections::watched(limits);
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(limits.per_worker(workers))
        .shutdown_timeout(SHUTDOWN_SECONDS);
    let ending = builder.graceful_shutdown_signal();
    // Once for requests, once for those that wait for a `100`.
    let configured = move || {
        let answers = app().into_factory().map_err(|error| error.into().error_response());
        map_config(answers, |()| AppConfig::default())
    };
    macro_rules! service {
        () => {{
            let (connections, ending) = (connections.clone(), ending.clone());
            let builder: HttpServiceBuilder<_, _> = HttpService::build()
                .graceful_shutdown_signal(move || {
                    let ending = ending.clone();
                    async move { ending.notified().await }
                })
                .keep_alive(KEEP_ALIVE_TIMEOUT)
                .client_request_timeout(REQUEST_HEAD_TIMEOUT)
                .client_disconnect_timeout(DISCONNECT_TIMEOUT)
                .h1_allow_half_closed(true)
                .tcp_nodelay(true);
            builder
                .on_connect_ext(move |io: &_, data: &mut _| connections.greet(io as &dyn Any, data))
                .expect(Unasked { app: configured(), leaves_body, body: PhantomData::<B> })
                .finish(configured())
        }};
    }
    let builder = match certificate {
        Some(shown) => {
            let config = shown.server_config();
            let with_tls = move || service!().rustls_0_23_with_config(config.clone(), TlsAcceptorConfig::default());
            builder.listen("https", listener, with_tls)
        }
        None => builder.listen("http", listener, move || service!().tcp()),
    };
    Ok(builder.io_context(context)?.run())
}

/// Answers requests that wait for a `100 Continue` and whose body is left alone; lets the others go on.
struct Unasked<A, B> {
    app: A,
    leaves_body: fn(&Request) -> bool,
    body: PhantomData<B>,
}

/// The application's answer, as what ends the waiting.
struct Answer(Response<BoxBody>);

impl From<Answer> for Response<BoxBody> {
    fn from(answer: Answer) -> Self {
        answer.0
    }
}

impl<A, B> ServiceFactory<Request> for Unasked<A, B>
where
    A: ServiceFactory<Request, Config = ()>,
    A::Future: 'static,
    A::Error: Into<Response<BoxBody>> + 'static,
    A::Response: Into<Response<B>> + 'static,
    <A::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = Request;
    type Error = Answer;
    type Config = ();
    type Service = Unasked<A::Service, B>;
    type InitError = A::InitError;
    type Future = LocalBoxFuture<'static, Result<Self::Service, A::InitError>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let (made, leaves_body) = (self.app.new_service(()), self.leaves_body);
        Box::pin(async move { Ok(Unasked { app: made.await?, leaves_body, body: PhantomData }) })
    }
}

impl<A, B> Service<Request> for Unasked<A, B>
where
    A: Service<Request>,
    A::Future: 'static,
    A::Error: Into<Response<BoxBody>> + 'static,
    A::Response: Into<Response<B>> + 'static,
    B: MessageBody + 'static,
{
    type Response = Request;
    type Error = Answer;
    type Future = LocalBoxFuture<'static, Result<Request, Answer>>;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Answer>> {
        self.app.poll_ready(context).map_err(|error| Answer(error.into()))
    }

    fn call(&self, request: Request) -> Self::Future {
        if !(self.leaves_body)(&request) {
            return Box::pin(std::future::ready(Ok(request)));
        }
        let answering = self.app.call(request);
        Box::pin(async move {
            Err(Answer(match answering.await {
                Ok(answer) => answer.into().map_into_boxed_body(),
                Err(error) => error.into(),
            }))
        })
    }
}
