//! The table of routes, and what every request goes through whichever it takes: an id, a deadline,
//! a count, and an answer even where the handler panics.
//!
//! It does not know what the handlers do.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use axum::routing::{MethodFilter, MethodRouter, on};
use bytes::Bytes;
use http_body_util::Either;
use hyper::body::Body as HttpBody;
use tower_service::Service;

use crate::engine::error::Problem;
use crate::http::call::{AnswerBody, Answered, Call, Reply};
use crate::http::door::Door;
use crate::http::{
    backup, batch, cache, docs, entity, erase, historical, listing, load, online, openapi,
    operations, problem, push, register, request_id,
};
use crate::metrics::{Code, Route};
use crate::time::Stopwatch;

type Answering = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// The methods that routes have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Get,
    Post,
    Delete,
}

impl Verb {
    const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Delete => MethodFilter::DELETE,
        }
    }

    /// Its name, as HTTP has it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// Which listener serves a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listener {
    /// The API, operations included.
    Api,
    /// Only health, readiness and metrics.
    Operations,
}

/// One route.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) verb: Verb,
    pub(super) path: &'static str,
    route: Route,
    listener: Listener,
    handler: fn(Call) -> Answering,
}

impl Entry {
    fn is_served(&self, listener: Listener) -> bool {
        listener == Listener::Api || self.listener == listener
    }
}

macro_rules! routes {
    ($($verb:ident $path:literal $route:ident $listener:ident $module:ident::$handler:ident,)*) => {
        /// Every route there is.
        pub(super) const ROUTES: &[Entry] = &[$(Entry {
            verb: Verb::$verb,
            path: $path,
            route: Route::$route,
            listener: Listener::$listener,
            handler: |call| Box::pin($module::$handler(call)),
        },)*];
    };
}

routes! {
    Post "/api/v1/features/online" Online Api online::handle,
    Post "/api/v1/features/batch" Batch Api batch::handle,
    Post "/api/v1/features/historical" Historical Api historical::handle,
    Post "/api/v1/features/push" Push Api push::handle,
    Post "/api/v1/features/register" Register Api register::handle,
    Get "/api/v1/features" Features Api listing::features,
    Get "/api/v1/features/{name}" Feature Api listing::feature,
    Get "/api/v1/features/{entity_type}/{entity_id}" Entity Api entity::handle,
    Get "/api/v1/entities" Entities Api listing::entity_types,
    Get "/api/v1/entities/{entity_type}" Entities Api listing::entities,
    Get "/api/v1/entities/{entity_type}/count" EntityCount Api listing::entity_count,
    Delete "/api/v1/entities/{entity_type}/count" Erasures Api erase::handle_count,
    Delete "/api/v1/entities/{entity_type}/{entity_id}" Erasures Api erase::handle,
    Get "/api/v1/erasures/{erasure}" Erasures Api erase::erasure,
    Get "/api/v1/views" Views Api listing::views,
    Get "/api/v1/views/{view}" Views Api listing::view,
    Delete "/api/v1/views/{view}" Views Api register::drop_view,
    Get "/api/v1/services" Services Api listing::services,
    Get "/api/v1/services/{service}" Services Api listing::service,
    Delete "/api/v1/services/{service}" Services Api register::drop_service,
    Delete "/api/v1/cache/invalidate/{entity_id}" Cache Api cache::handle,
    Post "/api/v1/load" Load Api load::handle,
    Post "/api/v1/backups" Backup Api backup::begin,
    Get "/api/v1/backups/{backup}/{file}" Backup Api backup::part,
    Delete "/api/v1/backups/{backup}" Backup Api backup::end,
    Get "/api/v1/stats" Stats Api operations::stats,
    Get "/health" Health Operations operations::health,
    Get "/ready" Ready Operations operations::ready,
    Get "/metrics" Metrics Operations operations::metrics,
    Get "/openapi.json" OpenApi Api openapi::handle,
    Get "/docs" Docs Api docs::redirect,
    Get "/docs/" Docs Api docs::page,
    Get "/docs/{file}" Docs Api docs::file,
}

/// The routes that one listener serves.
#[derive(Clone)]
pub struct Routes {
    door: Arc<Door>,
    listener: Listener,
    pub(super) router: Router,
}

impl Routes {
    /// The routes that `listener` serves.
    pub fn new(door: &Arc<Door>, listener: Listener) -> Self {
        Self { door: Arc::clone(door), listener, router: router(door, listener) }
    }

    /// Answers a request. Takes itself, so that nothing of it is cloned on the way.
    pub async fn answer<B>(mut self, request: Request<B>) -> Response<AnswerBody>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let request = request.map(Body::new);
        if let Some(entry) = self.plain(&request) {
            return serve(self.door, *entry, request).await;
        }
        match self.router.call(request).await {
            Ok(response) => response.map(Either::Right),
            Err(never) => match never {},
        }
    }

    /// The route of a path that has no parameters. Axum would find it too, in about a microsecond,
    /// which is as long as the rest of a lookup takes; the lookups stand first in the table.
    fn plain(&self, request: &Request) -> Option<&'static Entry> {
        let (method, path) = (request.method().as_str(), request.uri().path());
        ROUTES.iter().find(|entry| {
            entry.path == path && entry.verb.as_str() == method && entry.is_served(self.listener)
        })
    }
}

fn router(door: &Arc<Door>, listener: Listener) -> Router {
    let served = |entry: &&Entry| entry.is_served(listener);
    let mut router = Router::new();
    let mut paths: Vec<&'static str> = ROUTES.iter().filter(served).map(|e| e.path).collect();
    paths.dedup();
    for path in paths {
        router = router.route(path, methods(door, path));
    }
    let door = Arc::clone(door);
    router.fallback(move |request: Request| {
        let detail = format!("there is no {}", shown(request.uri().path()));
        refuse(Arc::clone(&door), request, Problem::new(Code::NoSuchRoute, detail))
    })
}

fn methods(door: &Arc<Door>, path: &'static str) -> MethodRouter {
    let of_path = || ROUTES.iter().filter(move |entry| entry.path == path);
    let allowed: Vec<&str> = of_path().map(|entry| entry.verb.as_str()).collect();
    let allowed = allowed.join(", ");
    let refusing = Arc::clone(door);
    let mut methods = MethodRouter::new().fallback(move |request: Request| {
        let detail = format!("{path} has {allowed}, not {}", shown(request.method().as_str()));
        let refused =
            refuse(Arc::clone(&refusing), request, Problem::new(Code::MethodNotAllowed, detail));
        let allowed = allowed.clone();
        async move {
            let mut response = refused.await;
            problem::allow(&mut response, &allowed);
            response
        }
    });
    for entry in of_path() {
        let door = Arc::clone(door);
        let handler = move |request| serve(Arc::clone(&door), *entry, request);
        methods = methods.merge(on(entry.verb.filter(), handler));
    }
    methods
}

fn shown(text: &str) -> String {
    crate::value::json::shorten(text)
}

/// Answers one request.
async fn serve(door: Arc<Door>, entry: Entry, request: Request) -> Reply {
    let started = Stopwatch::start();
    let id = request_id::of(request.headers());
    let (head, body) = request.into_parts();
    let call = Call::new(Arc::clone(&door), head, body, started);
    let answered = catch_panic((entry.handler)(call)).await;
    let mut response = match answered {
        Ok(response) => response,
        Err(problem) => {
            door.metrics.error(problem.code);
            let request_id = request_id::text(&id);
            if problem.code == Code::Internal {
                let (path, detail) = (entry.path, &problem.detail);
                tracing::error!(path, request_id, detail, "a request failed");
            } else {
                let (path, code) = (entry.path, problem.code.as_str());
                tracing::debug!(path, request_id, code, detail = problem.detail, "refused");
            }
            problem::respond(&problem, request_id)
        }
    };
    response.headers_mut().insert(request_id::HEADER, id);
    let status = response.status().as_u16();
    door.metrics.request(entry.route, status, started.elapsed(), door.clock.roughly_now());
    response
}

/// Refuses a request that no handler takes.
async fn refuse(door: Arc<Door>, request: Request, problem: Problem) -> Reply {
    let started = Stopwatch::start();
    let id = request_id::of(request.headers());
    door.metrics.error(problem.code);
    let mut response = problem::respond(&problem, request_id::text(&id));
    response.headers_mut().insert(request_id::HEADER, id);
    let status = StatusCode::as_u16(&response.status());
    door.metrics.request(Route::Other, status, started.elapsed(), door.clock.roughly_now());
    response
}

/// A panic costs one request, not the connection.
async fn catch_panic(answering: Answering) -> Answered {
    let mut answering = pin!(answering);
    std::future::poll_fn(move |context| {
        let polled = catch_unwind(AssertUnwindSafe(|| answering.as_mut().poll(context)));
        polled.unwrap_or_else(|_| {
            let detail = "the server failed on this request; whether it wrote is unknown";
            Poll::Ready(Err(Problem::new(Code::Internal, detail)))
        })
    })
    .await
}

#[cfg(test)]
mod tests;
