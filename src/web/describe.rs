//! The API's description, as far as it follows from the table of routes: who may ask, and which failures are answered.
//!
//! Summaries, parameters, bodies and successes stand at the handlers; methods and paths stand at both, and a test compares
//! them.

use std::collections::BTreeMap;

use actix_web::http::Method;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Required, ResponseBuilder, SecurityRequirement};

use super::error::status_of;
use super::route::{Access, Body, Route};
use crate::types::ErrorCode;

/// Told at the head of both descriptions.
pub const ABOUT: &str = "Errors are `{code, message, request_id}`; programs decide by the code. Two kinds have no body, \
because they are answered before there is a request: 400 to what is no HTTP, and 408 and 431 to a head that takes too \
long or has more than 128 KiB or 96 headers. Another method than those of a path is answered 405 with `Allow`.";

/// The path of a pattern, without what its variables may be.
pub fn path_of(pattern: &str) -> String {
    let mut path = String::new();
    let mut in_rule = false;
    for c in pattern.chars() {
        in_rule = c == ':' && path.contains('{') || in_rule && c != '}';
        if !in_rule {
            path.push(c);
        }
    }
    path
}

fn operation<'p>(item: &'p mut PathItem, method: &Method) -> Option<&'p mut Operation> {
    let operation = match method.as_str() {
        "GET" => &mut item.get,
        "HEAD" => &mut item.head,
        "POST" => &mut item.post,
        "PUT" => &mut item.put,
        "DELETE" => &mut item.delete,
        _ => return None,
    };
    operation.as_mut()
}

/// Adds to each operation what its row says.
pub fn complete<A: Access>(description: &mut OpenApi, table: &[Route<A>]) {
    for route in table {
        let path = path_of(route.pattern);
        let item = description.paths.paths.get_mut(&path);
        let Some(operation) = item.and_then(|item| operation(item, &route.method)) else { continue };
        operation.operation_id = Some(name_of(&route.method, &path));
        for parameter in operation.parameters.iter_mut().flatten() {
            parameter.schema = parameter.schema.take().map(without_null);
        }
        if let (Body::Bytes, Some(body)) = (route.body, &mut operation.request_body) {
            // No bytes at all are an empty file.
            body.required = Some(Required::False);
        }
        let needed = route.access.schemes();
        let one = |scheme: &&str| SecurityRequirement::new(*scheme, Vec::<String>::new());
        operation.security = Some(needed.iter().map(one).collect());
        let asks = operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty());
        let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
        for code in failures(route, asks) {
            let codes = by_status.entry(status_of(code).as_u16()).or_default();
            if !codes.contains(&code) {
                codes.push(code);
            }
        }
        for (status, codes) in by_status {
            let codes: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
            let mut response = ResponseBuilder::new().description(codes.join(", "));
            if route.method != Method::HEAD {
                let body = Content::new(Some(Ref::from_schema_name("ErrorBody")));
                response = response.content("application/json", body);
            }
            operation.responses.responses.entry(status.to_string()).or_insert_with(|| response.build().into());
        }
    }
}

/// What may be left out is not null: there is no null in a URL or a header.
fn without_null(schema: RefOr<Schema>) -> RefOr<Schema> {
    match schema {
        RefOr::T(Schema::Object(mut object)) => {
            if let SchemaType::Array(types) = &mut object.schema_type {
                types.retain(|one| *one != Type::Null);
                if let [one] = &types[..] {
                    object.schema_type = SchemaType::Type(one.clone());
                }
            }
            RefOr::T(Schema::Object(object))
        }
        RefOr::T(Schema::OneOf(mut one_of)) => {
            let is_null = |item: &RefOr<Schema>| matches!(item, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null));
            one_of.items.retain(|item| !is_null(item));
            match one_of.items.pop() {
                Some(item) if one_of.items.is_empty() => item,
                Some(item) => {
                    one_of.items.push(item);
                    RefOr::T(Schema::OneOf(one_of))
                }
                None => RefOr::T(Schema::OneOf(one_of)),
            }
        }
        other => other,
    }
}

/// `get_api_v1_servers_id_drain`.
fn name_of(method: &Method, path: &str) -> String {
    let words = path.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(method.as_str().to_lowercase()).chain(words.map(String::from)).collect::<Vec<_>>().join("_")
}

/// What an endpoint may answer when it does not do what it is for.
fn failures<A: Access>(route: &Route<A>, asks: bool) -> Vec<ErrorCode> {
    use ErrorCode::*;
    let mut codes = vec![Internal, Unavailable, Busy];
    let schemes = route.access.schemes();
    if !schemes.is_empty() {
        codes.push(Unauthorized);
    }
    match schemes {
        [] => {}
        ["ticket"] => codes.push(TicketExpired),
        _ => codes.push(Forbidden),
    }
    if route.body != Body::None || asks {
        codes.push(InvalidRequest);
    }
    if route.body.json_bytes_max().is_some() {
        codes.push(TooLarge);
    }
    codes.extend(route.fails);
    codes
}

/// A bearer's token.
pub fn bearer(description: &str) -> SecurityScheme {
    SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build())
}

/// The credential of a server.
pub fn server() -> SecurityScheme {
    let description = "`Holdfast CREDENTIAL`: signed with the cluster's secret, for servers only";
    SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("Authorization", description)))
}

/// A ticket in the query.
pub fn ticket() -> SecurityScheme {
    let description = "A permission for one transfer, which the name server hands out";
    SecurityScheme::ApiKey(ApiKey::Query(ApiKeyValue::with_description("ticket", description)))
}

/// Compares a description with its table: each is told what the other lacks.
#[cfg(test)]
pub fn differences<A: Access>(description: &OpenApi, table: &[Route<A>]) -> Vec<String> {
    use std::collections::BTreeSet;
    let rows: BTreeSet<(String, String)> =
        table.iter().map(|route| (path_of(route.pattern), route.method.as_str().to_lowercase())).collect();
    let value = serde_json::to_value(description).unwrap();
    let mut told = BTreeSet::new();
    let mut wrong = Vec::new();
    for (path, item) in value["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            told.insert((path.clone(), method.clone()));
            let what = format!("{method} {path}");
            let route = table
                .iter()
                .find(|route| path_of(route.pattern) == *path && route.method.as_str().eq_ignore_ascii_case(method));
            let Some(route) = route else { continue };
            let schemes: Vec<&str> = operation["security"]
                .as_array()
                .map(|all| all.iter().filter_map(|one| one.as_object()?.keys().next()).map(String::as_str).collect())
                .unwrap_or_default();
            if schemes != route.access.schemes() || operation["security"].is_null() {
                wrong.push(format!("{what}: security {}", operation["security"]));
            }
            let responses = operation["responses"].as_object().unwrap();
            if !responses.keys().any(|status| status.starts_with('2') || status.starts_with('3')) {
                wrong.push(format!("{what}: no success is described"));
            }
            if operation["summary"].as_str().is_none_or(str::is_empty) && operation["description"].is_null() {
                wrong.push(format!("{what}: it is not said what it is for"));
            }
            if operation["requestBody"].is_null() != (route.body == Body::None) {
                wrong.push(format!("{what}: its body is {:?}", route.body));
            }
        }
    }
    wrong.extend(rows.difference(&told).map(|(path, method)| format!("{method} {path} is not described")));
    wrong.extend(told.difference(&rows).map(|(path, method)| format!("{method} {path} is described and not there")));
    wrong.extend(dangling(&value).into_iter().map(|name| format!("{name} is referred to and not described")));
    wrong
}

/// Schemas that are referred to and are not there.
#[cfg(test)]
fn dangling(description: &serde_json::Value) -> Vec<String> {
    fn collect(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(|to| to.as_str()).map(String::from));
                fields.values().for_each(|field| collect(field, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(description, &mut found);
    found.retain(|to| description.pointer(to.trim_start_matches('#')).is_none());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_their_rules() {
        assert_eq!(path_of("/files/{path:.*}"), "/files/{path}");
        assert_eq!(path_of("/api/v1/servers/{id}/drain"), "/api/v1/servers/{id}/drain");
        assert_eq!(name_of(&Method::POST, "/api/v1/servers/{id}/drain"), "post_api_v1_servers_id_drain");
    }
}
