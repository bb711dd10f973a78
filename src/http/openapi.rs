//! The API's description, generated from the handlers.

use actix_web::HttpResponse;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{files, fsck, namespace, operation, restore, servers, tokens};
use crate::types::api::ErrorBody;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Holdfast name server",
        description = "Errors are `{code, message, request_id}`. Bytes travel to and from storage servers, by tickets; \
                       `GET`, `HEAD`, `PUT` and `DELETE /files/{path}` redirect there (307), so that `curl -L` works."
    ),
    paths(
        files::available, files::commit, files::stat, files::delete, files::list,
        namespace::mkdir, namespace::rmdir, namespace::touch, namespace::mv, namespace::cp, namespace::setrep,
        servers::register, servers::pending_fates, servers::corrupt_fates,
        servers::list, servers::drain, servers::undrain, servers::remove,
        operation::report, operation::actors_list, operation::events_list, operation::why, operation::status, operation::metrics_text,
        fsck::check, restore::start, restore::status,
        tokens::create, tokens::list, tokens::revoke, tokens::revoke_by_query,
    ),
    components(schemas(ErrorBody)),
    modifiers(&Bearer)
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        description.components.get_or_insert_with(Default::default).add_security_scheme("token", scheme);
        description.security = Some(vec![utoipa::openapi::SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

/// This description.
pub async fn document() -> HttpResponse {
    HttpResponse::Ok().json(Description::openapi())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_of_the_contract_is_described() {
        let description = Description::openapi();
        for path in [
            "available",
            "file",
            "ls",
            "mkdir",
            "rmdir",
            "touch",
            "mv",
            "cp",
            "setrep",
            "fsck",
            "register",
            "corrupt",
            "servers",
            "report",
            "actors",
            "events",
            "why",
            "restore",
            "servers/{id}/drain",
            "servers/{id}/undrain",
            "servers/{id}/remove",
        ] {
            assert!(description.paths.paths.contains_key(&format!("/api/v1/{path}")), "{path}");
        }
        assert!(description.paths.paths.contains_key("/status"));
    }
}
