//! Who may ask what: every endpoint of both servers, from their tables, by everybody who may come.
//!
//! What is expected follows from the table's decision alone, so a new endpoint is checked without a line here, and one whose
//! way of being asked is not known fails.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use holdfast::http::auth::{Access, Of, Scope};
use holdfast::security::credential::{CREDENTIAL_TTL, Challenge};
use holdfast::security::{ClusterSecret, ReadTicket, Recipient, Sender, ServerCredential, Signer, WriteTicket, tls};
use holdfast::storage::http::{Access as StorageAccess, As, Kind};
use holdfast::types::api::{Condition, Role, Target};
use holdfast::types::storage_api::ReplicaKey;
use holdfast::types::{DfsPath, Generation, ObjectId, ServerId, Sha256};
use holdfast::web::route::{Body, Route};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::cluster::{Cluster, Plan, SCRAPE_TOKEN, SECRET};
use crate::common::wait_for;

const IN: &str = "/in/nothing/x";
const OUT: &str = "/out/nothing/x";

/// What a request must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Unauthorized,
    Forbidden,
    /// Whatever else: the sender was let in.
    In,
}

impl Want {
    fn is(self, status: StatusCode) -> bool {
        match self {
            Self::Unauthorized => status == StatusCode::UNAUTHORIZED,
            Self::Forbidden => status == StatusCode::FORBIDDEN,
            Self::In => status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN && status.as_u16() != 500,
        }
    }
}

/// Whoever comes to the name server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Nobody, in many ways.
    Nobody,
    /// The bearer of a token, perhaps for `/in` only.
    Bearer(Role, bool),
    Scraper,
    /// A storage server of this cluster, of none yet, of another one.
    Storage(Option<bool>),
    NameServer,
}

/// What the table decides about who asks for `path`, if the request can be understood at all.
fn decided(access: Access, who: Who, path: Option<&str>) -> Want {
    match (access, who) {
        (Access::Open, _) => Want::In,
        (Access::Token(needed, scope), Who::Bearer(role, prefixed)) => {
            let covered = match scope {
                Scope::Cluster => !prefixed,
                Scope::Path => !prefixed || path.is_none_or(|path| path.starts_with("/in/")),
            };
            if role >= needed && covered { Want::In } else { Want::Forbidden }
        }
        (Access::Restorer(needed), Who::Bearer(role, prefixed)) => {
            if role >= needed && !prefixed {
                Want::In
            } else {
                Want::Forbidden
            }
        }
        (Access::Scrape, Who::Bearer(_, prefixed)) if prefixed => Want::Forbidden,
        (Access::Scrape, Who::Bearer(..) | Who::Scraper) => Want::In,
        (Access::StorageServer(_), Who::NameServer) => Want::Forbidden,
        (Access::StorageServer(Of::ThisCluster), Who::Storage(None | Some(false))) => Want::Forbidden,
        (Access::StorageServer(_), Who::Storage(_)) => Want::In,
        (Access::Token(..) | Access::Restorer(_) | Access::Scrape | Access::StorageServer(_), _) => Want::Unauthorized,
    }
}

/// A pattern with something in its place.
fn concrete(pattern: &str, path: &str) -> String {
    pattern.replace("/{path:.*}", path).replace("{id}", "nobody").replace("{name}", "nobody")
}

/// What a request shows.
#[derive(Clone)]
enum Shows {
    Nothing,
    /// This `Authorization`.
    Text(String),
    /// A credential, made for each request.
    Signed {
        signer: Signer,
        cluster: Option<Uuid>,
        epoch: i64,
        sender: Sender,
        to: Recipient,
        life: TimeDelta,
    },
}

impl Shows {
    fn header(&self, request: &reqwest::Request) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Text(text) => Some(text.clone()),
            Self::Signed { signer, cluster, epoch, sender, to, life } => {
                let url = request.url();
                let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
                let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default();
                let claims = ServerCredential {
                    sender: sender.clone(),
                    recipient: *to,
                    method: request.method().to_string(),
                    target: format!("{}{query}", url.path()),
                    body: Some(Sha256::of(body)),
                    nonce: rand::random(),
                    expires: Utc::now() + *life,
                };
                Some(format!("Holdfast {}", signer.sign(*cluster, *epoch, &claims).unwrap()))
            }
        }
    }
}

struct Walk {
    http: reqwest::Client,
    base: String,
    asked: usize,
    wrong: Vec<String>,
}

impl Walk {
    fn new(base: String) -> Self {
        tls::install_crypto_provider();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { http, base, asked: 0, wrong: Vec::new() }
    }

    /// Sends a request that can be understood where it names a path.
    async fn named(&self, method: &Method, pattern: &str, auth: &Shows, path: &str, other: &str) -> Answer {
        let url = format!("{}{}?path={path}", self.base, concrete(pattern, path));
        let body = json!({ "path": path, "from": path, "to": other, "copies": 2 });
        self.send(method, url, auth, Some(body.to_string())).await
    }

    /// Sends a request whose query, path and body are all wrong.
    async fn broken(&self, method: &Method, pattern: &str, auth: &Shows) -> Answer {
        let url = format!("{}{}?path=x&limit=x&after=x&file=x", self.base, concrete(pattern, "/a%00b"));
        self.send(method, url, auth, Some("{".into())).await
    }

    async fn send(&self, method: &Method, url: String, auth: &Shows, body: Option<String>) -> Answer {
        let mut request = self.http.request(method.clone(), url).timeout(Duration::from_secs(20));
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body);
        }
        let mut request = request.build().unwrap();
        if let Some(text) = auth.header(&request) {
            request.headers_mut().insert("Authorization", text.parse().unwrap());
        }
        let response = self.http.execute(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, body: response.text().await.unwrap() }
    }

    fn check(&mut self, what: String, want: Want, answer: &Answer) {
        self.asked += 1;
        let mut faults = Vec::new();
        if !want.is(answer.status) {
            faults.push(format!("{want:?} was expected, it answered {} {}", answer.status, answer.body));
        }
        if want == Want::Unauthorized || want == Want::Forbidden {
            faults.extend(answer.faults_of_an_error());
        }
        faults.extend(answer.faults_of_headers());
        self.wrong.extend(faults.into_iter().map(|fault| format!("{what}: {fault}")));
    }

    fn finish(self) {
        println!("{} requests to {}, {} wrong answers", self.asked, self.base, self.wrong.len());
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
    }
}

struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn faults_of_an_error(&self) -> Option<String> {
        let body: Option<Value> = serde_json::from_str(&self.body).ok();
        let right = body.is_some_and(|body| {
            ["code", "message", "request_id"].iter().all(|key| body[key].as_str().is_some_and(|text| !text.is_empty()))
        });
        // An answer to HEAD has no body.
        (!right && !self.body.is_empty()).then(|| format!("the body is no error: {}", self.body))
    }

    fn faults_of_headers(&self) -> Vec<String> {
        [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"), ("cache-control", "no-store")]
            .into_iter()
            .filter(|(name, value)| self.header(name) != *value)
            .map(|(name, _)| format!("{name} is {:?}", self.header(name)))
            .collect()
    }
}

/// Asks every path for the methods that it does not have.
async fn other_methods<A>(walk: &mut Walk, table: &[Route<A>]) {
    let patterns: BTreeSet<&str> = table.iter().map(|route| route.pattern).collect();
    for pattern in patterns {
        let allowed: Vec<&str> =
            table.iter().filter(|route| route.pattern == pattern).map(|route| route.method.as_str()).collect();
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "FROBNICATE"] {
            if allowed.contains(&method) {
                continue;
            }
            let answer = walk.broken(&Method::from_bytes(method.as_bytes()).unwrap(), pattern, &Shows::Nothing).await;
            walk.asked += 1;
            let mut faults = answer.faults_of_headers();
            faults.extend(answer.faults_of_an_error());
            if answer.status != StatusCode::METHOD_NOT_ALLOWED || answer.header("allow") != allowed.join(", ") {
                faults.push(format!("{} Allow: {} {}", answer.status, answer.header("allow"), answer.body));
            }
            walk.wrong.extend(faults.into_iter().map(|fault| format!("{method} {pattern}: {fault}")));
        }
    }
}

/// A stranger who announces a large body and sends none of it is answered at once.
fn refused_before_the_body(port: u16, method: &str, path: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let head = "Host: h\r\nContent-Type: application/json\r\nContent-Length: 4194304\r\n\r\n{";
    write!(stream, "{method} {path} HTTP/1.1\r\n{head}").unwrap();
    let mut answer = [0; 32];
    let read = stream.read(&mut answer).unwrap_or_else(|error| panic!("{method} {path} waits for the body: {error}"));
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{method} {path}: {answer}");
}

fn signer(secret: &str) -> Signer {
    Signer::new(ClusterSecret::from_text(secret).unwrap())
}

fn role_word(role: Role) -> String {
    format!("{role:?}").to_lowercase()
}

/// Makes a token.
fn token(cluster: &Cluster, name: &str, role: Role, prefix: Option<&str>, ttl_seconds: Option<u64>) -> String {
    let body = json!({ "name": name, "role": role_word(role), "prefix": prefix, "ttl_seconds": ttl_seconds });
    let made = cluster.http().post("/api/v1/tokens", &body.to_string());
    assert_eq!(made.status, 201, "{}", made.body);
    made.json()["token"].as_str().unwrap().into()
}

/// A token that was asked with up to its end, and nothing after it: nobody who remembers it lets it live on.
fn token_until_its_end(cluster: &Cluster) -> String {
    let asked = |token: &str| {
        let header = format!("Authorization: Bearer {token}");
        let nobody = crate::common::cluster::Http { token: None, base: cluster.name_server.url() };
        nobody.curl(&["-H", &header, &format!("{}/api/v1/report", nobody.base)]).unwrap().status
    };
    wait_for("a token is asked with before its end", 60, || {
        let name = format!("expired-{}", Uuid::new_v4());
        let token = token(cluster, &name, Role::Superuser, None, Some(1));
        let end = Instant::now() + Duration::from_millis(1_050);
        // On a slow machine it may have ended already; then nothing was learnt.
        let lived = asked(&token) == 200;
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        assert_eq!(asked(&token), 401, "a token works after its end");
        lived.then_some(token)
    })
}

#[test]
fn every_endpoint_lets_in_whom_the_tables_say_and_looks_at_nothing_before() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    name_server(&cluster, &runtime);
    storage_server(&cluster, &runtime);
}

fn name_server(cluster: &Cluster, runtime: &tokio::runtime::Runtime) {
    let table = holdfast::http::ROUTES;
    let id: Uuid = cluster.get("/status")["cluster"].as_str().unwrap().parse().unwrap();
    let revoked = token(cluster, "revoked", Role::Superuser, None, None);
    let expired = token_until_its_end(cluster);
    let delete = format!("{}/api/v1/tokens/revoked", cluster.name_server.url());
    assert_eq!(cluster.http().curl(&["-X", "DELETE", &delete]).unwrap().status, 200);
    let http = cluster.http();
    for gone in [&revoked, &expired] {
        wait_for("a token has ended", 20, || {
            let header = format!("Authorization: Bearer {gone}");
            let nobody = crate::common::cluster::Http { token: None, base: http.base.clone() };
            let asked = nobody.curl(&["-H", &header, &format!("{}/api/v1/report", http.base)])?;
            (asked.status == 401).then_some(())
        });
    }
    let (ours, theirs) = (signer(SECRET), signer(&"z".repeat(32)));
    let signed = |signer: &Signer, cluster, sender| Shows::Signed {
        signer: signer.clone(),
        cluster,
        epoch: 1,
        sender,
        to: Recipient::NameServer,
        life: CREDENTIAL_TTL,
    };
    let storage = || Sender::Storage { identity: Uuid::new_v4() };
    let mut people: Vec<(Who, Shows)> = vec![(Who::Nobody, Shows::Nothing)];
    for text in [
        "Bearer ".to_string(),
        "Bearer hf_0000000000000000000000000000000000000000000000000000000000000000".into(),
        "Basic c3VwZXJ1c2VyOnN1cGVydXNlcg==".into(),
        format!("Bearer {revoked}"),
        format!("Bearer {expired}"),
        "Holdfast x.y".into(),
    ] {
        people.push((Who::Nobody, Shows::Text(text)));
    }
    people.push((Who::Nobody, signed(&theirs, Some(id), storage())));
    for role in [Role::Reader, Role::Writer, Role::Superuser] {
        for prefixed in [false, true] {
            let name = format!("{}-{prefixed}", role_word(role));
            let text = token(cluster, &name, role, prefixed.then_some("/in"), None);
            people.push((Who::Bearer(role, prefixed), Shows::Text(format!("Bearer {text}"))));
        }
    }
    people.push((Who::Scraper, Shows::Text(format!("Bearer {SCRAPE_TOKEN}"))));
    for (ours_or_other, cluster) in [(Some(true), Some(id)), (None, None), (Some(false), Some(Uuid::new_v4()))] {
        people.push((Who::Storage(ours_or_other), signed(&ours, cluster, storage())));
    }
    people.push((Who::NameServer, signed(&ours, Some(id), Sender::NameServer { term: 1 })));

    let mut walk = Walk::new(cluster.name_server.url());
    runtime.block_on(async {
        for route in table {
            for (who, auth) in &people {
                let what = |how: &str| format!("{} {} by {who:?} {how}", route.method, route.pattern);
                let method = Method::from_bytes(route.method.as_str().as_bytes()).unwrap();
                let answer = walk.broken(&method, route.pattern, auth).await;
                // A path that cannot be read is covered by no token and outside of none.
                walk.check(what("with a broken request"), decided(route.access, *who, None), &answer);
                let Access::Token(_, Scope::Path) = route.access else { continue };
                for (path, other) in [(IN, IN), (OUT, OUT), (IN, OUT), (OUT, IN)] {
                    let names_both = ["/api/v1/mv", "/api/v1/cp"].contains(&route.pattern);
                    if path != other && !names_both {
                        continue;
                    }
                    let worst = if path == IN { other } else { path };
                    let answer = walk.named(&method, route.pattern, auth, path, other).await;
                    walk.check(what(&format!("for {path} {other}")), decided(route.access, *who, Some(worst)), &answer);
                    // Otherwise nothing was learnt about the prefix.
                    if answer.body.contains("missing field") {
                        walk.wrong.push(format!("{}: {}", what("was not understood"), answer.body));
                    }
                }
            }
        }
        other_methods(&mut walk, table).await;
    });
    walk.finish();
    for route in table.iter().filter(|route| route.access != Access::Open) {
        refused_before_the_body(cluster.name_server.port, route.method.as_str(), &concrete(route.pattern, "/a"));
    }
}

fn storage_server(cluster: &Cluster, runtime: &tokio::runtime::Runtime) {
    let table = holdfast::storage::http::ROUTES;
    let status = cluster.storage_status(0).unwrap();
    let (id, server, epoch, term) = (status.cluster.unwrap(), status.server.unwrap(), status.epoch, status.term);
    assert!(term > 0, "a name server has acted");
    let (ours, theirs) = (signer(SECRET), signer(&"z".repeat(32)));
    let (hour, past, soon) = (TimeDelta::hours(1), TimeDelta::hours(-1), CREDENTIAL_TTL);
    let name_server = |term| Sender::NameServer { term };
    let (me, other_one) = (Recipient::Storage(status.identity), Recipient::Storage(Uuid::new_v4()));
    let to = |to, signer: &Signer, cluster, epoch, sender, life| Shows::Signed {
        signer: signer.clone(),
        cluster: Some(cluster),
        epoch,
        sender,
        to,
        life,
    };
    let by = |signer: &Signer, cluster, epoch, sender, life| to(me, signer, cluster, epoch, sender, life);
    let storage = Sender::Storage { identity: Uuid::new_v4() };
    use Want::*;
    // Whoever comes, with what an endpoint for acting name servers and one for readers must answer.
    let people: Vec<(&str, Shows, Want, Want)> = vec![
        ("nobody", Shows::Nothing, Unauthorized, Unauthorized),
        ("a superuser", Shows::Text(format!("Bearer {}", cluster.token)), Unauthorized, Unauthorized),
        ("the scraper", Shows::Text(format!("Bearer {SCRAPE_TOKEN}")), Unauthorized, Unauthorized),
        ("garbage", Shows::Text("Holdfast x.y".into()), Unauthorized, Unauthorized),
        ("another secret", by(&theirs, id, epoch, name_server(term), soon), Unauthorized, Unauthorized),
        ("one that has ended", by(&ours, id, epoch, name_server(term), past), Unauthorized, Unauthorized),
        ("another cluster", by(&ours, Uuid::new_v4(), epoch, name_server(term), soon), Forbidden, Forbidden),
        ("a storage server", by(&ours, id, epoch, storage, soon), Forbidden, Forbidden),
        ("an older epoch", by(&ours, id, epoch - 1, name_server(term), soon), Forbidden, Forbidden),
        ("an older term", by(&ours, id, epoch, name_server(term - 1), soon), Forbidden, In),
        ("one for another server", to(other_one, &ours, id, epoch, name_server(term), soon), Forbidden, Forbidden),
        ("one of a time to come", by(&ours, id, epoch, name_server(term), hour), Unauthorized, Unauthorized),
        ("the name server", by(&ours, id, epoch, name_server(term), soon), In, In),
    ];
    let key = ReplicaKey { object: ObjectId::generate(), generation: Generation::generate() };
    let read = |server: ServerId, life: TimeDelta| ReadTicket {
        replica: key,
        server,
        name: "x".into(),
        version: 1,
        expires: Utc::now() + life,
    };
    let write = |server: ServerId, life: TimeDelta| WriteTicket {
        object: key.object,
        generation: key.generation,
        path: DfsPath::parse("/x").unwrap(),
        size: Some(1 << 20),
        targets: vec![Target { server, url: cluster.storage[0].url() }],
        min_write_copies: 1,
        condition: Condition::Any,
        make_parents: false,
        by: None,
        expires: Utc::now() + life,
    };
    let other = ServerId(server.0 ^ 1);
    let reads: Vec<(&str, String, Want)> = vec![
        ("a good one", ours.sign(Some(id), epoch, &read(server, hour)).unwrap(), In),
        ("another server's", ours.sign(Some(id), epoch, &read(other, hour)).unwrap(), Unauthorized),
        ("one that has ended", ours.sign(Some(id), epoch, &read(server, past)).unwrap(), Unauthorized),
        ("an older epoch's", ours.sign(Some(id), epoch - 1, &read(server, hour)).unwrap(), Unauthorized),
        ("another cluster's", ours.sign(Some(Uuid::new_v4()), epoch, &read(server, hour)).unwrap(), Unauthorized),
        ("another secret's", theirs.sign(Some(id), epoch, &read(server, hour)).unwrap(), Unauthorized),
        ("one for writing", ours.sign(Some(id), epoch, &write(server, hour)).unwrap(), Unauthorized),
    ];
    let writes: Vec<(&str, String, Want)> = vec![
        ("a good one", ours.sign(Some(id), epoch, &write(server, hour)).unwrap(), In),
        ("another server's", ours.sign(Some(id), epoch, &write(other, hour)).unwrap(), Unauthorized),
        ("one that has ended", ours.sign(Some(id), epoch, &write(server, past)).unwrap(), Unauthorized),
        ("an older epoch's", ours.sign(Some(id), epoch - 1, &write(server, hour)).unwrap(), Unauthorized),
        ("another cluster's", ours.sign(Some(Uuid::new_v4()), epoch, &write(server, hour)).unwrap(), Unauthorized),
        ("another secret's", theirs.sign(Some(id), epoch, &write(server, hour)).unwrap(), Unauthorized),
        ("one for reading", ours.sign(Some(id), epoch, &read(server, hour)).unwrap(), Unauthorized),
    ];
    let challenge = Challenge { nonce: Uuid::new_v4(), expires: Utc::now() + hour };
    let challenges: Vec<(&str, String, Want)> = vec![
        ("a good one", ours.sign(Some(id), epoch, &challenge).unwrap(), In),
        ("another cluster's", ours.sign(Some(Uuid::new_v4()), epoch, &challenge).unwrap(), In),
        ("another secret's", theirs.sign(Some(id), epoch, &challenge).unwrap(), Unauthorized),
        ("one for reading", ours.sign(Some(id), epoch, &read(server, hour)).unwrap(), Unauthorized),
    ];
    let mut walk = Walk::new(cluster.storage[0].url());
    runtime.block_on(async {
        for route in table {
            let method = Method::from_bytes(route.method.as_str().as_bytes()).unwrap();
            for (who, auth, acting, reader) in &people {
                let want = match route.access {
                    StorageAccess::Open => In,
                    // Whoever shows nothing is told that it lives; whoever shows something wrong hears what is wrong.
                    StorageAccess::OpenOrServer => match *who {
                        "garbage" | "another secret" | "one that has ended" | "one of a time to come" => Unauthorized,
                        "one for another server" => Forbidden,
                        _ => In,
                    },
                    StorageAccess::NameServer(As::Acting | As::Copier) => *acting,
                    StorageAccess::NameServer(As::Reader) => *reader,
                    StorageAccess::Ticket(_) => Unauthorized,
                    StorageAccess::Scrape if *who == "the scraper" => In,
                    // It is not fenced: what it tells is nobody's secret in the cluster.
                    StorageAccess::Scrape if *who == "an older epoch" => In,
                    StorageAccess::Scrape => *reader,
                };
                let answer = walk.broken(&method, route.pattern, auth).await;
                walk.check(format!("{method} {} by {who}", route.pattern), want, &answer);
            }
            let StorageAccess::Ticket(kind) = route.access else { continue };
            let (name, tickets) = match kind {
                Kind::Read => ("ticket", &reads),
                Kind::Write => ("ticket", &writes),
                Kind::Challenge => ("challenge", &challenges),
            };
            for (what, ticket, want) in tickets {
                let url = format!("{}{}?{name}={ticket}", walk.base, route.pattern);
                let answer = walk.send(&method, url, &Shows::Nothing, Some("short".into())).await;
                walk.check(format!("{method} {} with {what}", route.pattern), *want, &answer);
            }
            for ticket in ["", "?ticket=", "?ticket=x", "?ticket=x.y", "?ticket=%ff", "?role=copy"] {
                let url = format!("{}{}{ticket}", walk.base, route.pattern);
                let answer = walk.send(&method, url, &Shows::Nothing, Some("short".into())).await;
                walk.check(format!("{method} {} with {ticket:?}", route.pattern), Unauthorized, &answer);
            }
        }
        other_methods(&mut walk, table).await;
    });
    walk.finish();
    for route in table.iter().filter(|route| !matches!(route.access, StorageAccess::Open | StorageAccess::OpenOrServer))
    {
        refused_before_the_body(cluster.storage[0].port, route.method.as_str(), route.pattern);
    }
}

#[test]
fn a_table_names_each_endpoint_once_and_says_what_body_it_takes() {
    fn look<A: std::fmt::Debug>(table: &[Route<A>]) {
        let mut seen = BTreeSet::new();
        for route in table {
            assert!(seen.insert((route.pattern, route.method.as_str())), "{} {}", route.method, route.pattern);
            let reads = matches!(route.method.as_str(), "GET" | "HEAD");
            assert!(!reads || route.body == Body::None, "{} {} has a body", route.method, route.pattern);
        }
    }
    look(holdfast::http::ROUTES);
    look(holdfast::storage::http::ROUTES);
}

#[test]
fn a_token_for_a_part_is_told_of_no_other_place() {
    let cluster = Cluster::start(&Plan { storage_servers: 2, ..Plan::default() });
    let body = cluster.path("body");
    std::fs::write(&body, vec![9; 300_000]).unwrap();
    assert_eq!(cluster.http().put("/secret-dir/merger.bin", &body, &[]).status, 201);
    cluster.ok(&["mkdir", "/a"]);
    cluster.ok(&["cp", "/secret-dir/merger.bin", "/a/big"]);
    // A copy is found corrupt: that is an event which names the path of the commit.
    let damaged = walkdir::WalkDir::new(cluster.storage_dir(0).join("objects"))
        .into_iter()
        .flatten()
        .find(|entry| entry.file_type().is_file())
        .unwrap();
    let mut bytes = std::fs::read(damaged.path()).unwrap();
    bytes[100_000] ^= 1;
    std::fs::write(damaged.path(), bytes).unwrap();
    let part = crate::common::cluster::Http {
        token: Some(token(&cluster, "part", Role::Reader, Some("/a"), None)),
        base: cluster.name_server.url(),
    };
    let whole = wait_for("the damage is known", 20, || {
        // Whoever reads it makes it known.
        let entry = cluster.get("/api/v1/file?path=/a/big");
        for replica in entry["replicas"].as_array()? {
            cluster.http().curl(&["-o", "/dev/null", replica["url"].as_str()?]);
        }
        let why = cluster.http().get("/api/v1/why?path=/a/big").body;
        why.contains("corrupt").then_some(why)
    });
    assert!(whole.contains("/secret-dir/merger.bin"), "{whole}");
    // So it is with what came from elsewhere by a move, and with what was thrown out of it.
    cluster.ok(&["mv", "/secret-dir/merger.bin", "/a/moved"]);
    let told = part.get("/api/v1/why?path=/a/big");
    assert_eq!(told.status, 200, "{}", told.body);
    assert!(told.body.contains("a copy was found corrupt"), "{}", told.body);
    // Nor does anything else that it may ask tell of it.
    for asked in [
        "why?path=/a/big",
        "why?path=/a/moved",
        "file?path=/a/big",
        "file?path=/a/moved",
        "ls?path=/a&locations=true",
        "events",
        "events?path=/a/moved",
        "report",
        "fsck",
    ] {
        let told = part.get(&format!("/api/v1/{asked}"));
        assert!(!told.body.contains("secret-dir"), "{asked}: {}", told.body);
    }
}
