//! Tokens that a tenant signs by itself.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_protocol::id::{TenantId, UserId};
use millrace_protocol::node::{KeyAlgorithm, NodeBody};
use millrace_token::{Claims, SigningKey};
use serde_json::json;

use crate::{World, text};

fn claims(world: &World, tenant: u64) -> Claims {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now_ms = i64::try_from(now.as_millis()).unwrap();
    let tenant = TenantId::new(u32::try_from(tenant).unwrap()).unwrap();
    assert!(world.tenant > 0);
    Claims {
        tenant,
        user: UserId::new("ann").unwrap(),
        issued_at_ms: now_ms,
        expires_at_ms: now_ms + 60_000,
        id: "their-own".into(),
        roles: vec![],
        device: None,
    }
}

fn material(key: &SigningKey) -> String {
    let on_the_link = key.tenant_key(TenantId::new(1).unwrap(), "x");
    STANDARD.encode(on_the_link.key.unwrap().1)
}

#[test]
fn tokens_of_every_algorithm_are_accepted_while_the_key_is_registered() {
    let world = World::new();
    for (algorithm, word) in
        [(KeyAlgorithm::EdDsa, "EdDSA"), (KeyAlgorithm::Es256, "ES256"), (KeyAlgorithm::Hs256, "HS256")]
    {
        let key = SigningKey::generate(algorithm).unwrap();
        world.plane.told();
        let draft = json!({"algorithm": word, "key": material(&key), "label": "sign-in"});
        let registered = world.post("/v1/signing-keys", &world.api, &draft).expect(201);
        let id = text(&registered["id"]);
        assert_eq!(registered["public_key"].is_null(), word == "HS256", "a secret is not shown");
        let told = world.plane.told();
        let [NodeBody::Keys(keys)] = &told[..] else { panic!("{told:?}") };
        assert_eq!(keys.len(), 2, "all keys of the tenant: its own and this one");

        let token = key.sign(&id, &claims(&world, world.tenant)).unwrap();
        world.get("/v1/channels", &token).expect(200);
        let foreign = key.sign(&id, &claims(&world, world.tenant ^ 2)).unwrap();
        world.get("/v1/channels", &foreign).problem(401, "unauthenticated");
        let unknown = key.sign("7.unknown", &claims(&world, world.tenant)).unwrap();
        world.get("/v1/channels", &unknown).problem(401, "unauthenticated");

        world.delete(&format!("/v1/signing-keys/{id}"), &world.api).expect(204);
        let told = world.plane.told();
        let [NodeBody::Keys(keys)] = &told[..] else { panic!("{told:?}") };
        assert!(keys.iter().any(|key| key.id == id && key.key.is_none()), "the end of the key is told");
        world.get("/v1/channels", &token).problem(401, "unauthenticated");
    }
}

#[test]
fn public_keys_come_as_pem_too() {
    let world = World::new();
    // Source: RFC 8410 §10.1, the key of the certificate; P-256: RFC 6979 §A.2.5.
    let ed25519 = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    let registered =
        world.post("/v1/signing-keys", &world.api, &json!({"algorithm": "EdDSA", "key": ed25519})).expect(201);
    assert_eq!(registered["public_key"], "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");
    let point = "0460FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB67903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299";
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let der = [hex("3059301306072a8648ce3d020106082a8648ce3d030107034200"), hex(point)].concat();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode(der));
    let registered = world.post("/v1/signing-keys", &world.api, &json!({"algorithm": "ES256", "key": pem})).expect(201);
    assert_eq!(registered["public_key"], STANDARD.encode(hex(point)));
}

#[test]
fn what_is_no_key_is_refused() {
    let world = World::new();
    let check = |algorithm: &str, key: &str| {
        let draft = json!({"algorithm": algorithm, "key": key});
        world.post("/v1/signing-keys", &world.api, &draft).wrong_fields(&["/key"]);
    };
    check("EdDSA", "!");
    check("EdDSA", &STANDARD.encode([1; 31]));
    check("ES256", &STANDARD.encode([4; 65]));
    check("HS256", &STANDARD.encode([1; 31]));
    check("EdDSA", "-----BEGIN PUBLIC KEY-----\nAAAA");
    let rsa = json!({"algorithm": "RS256", "key": "AAAA"});
    world.post("/v1/signing-keys", &world.api, &rsa).wrong_fields(&["/algorithm"]);
}

#[test]
fn the_issuing_key_stays_and_their_number_is_bounded() {
    let world = World::new();
    let listed = world.get("/v1/signing-keys", &world.api).expect(200);
    let own = &listed["signing_keys"][0];
    assert_eq!(own["issues"], true);
    world.delete(&format!("/v1/signing-keys/{}", text(&own["id"])), &world.api).problem(409, "conflict");
    let (_, other) = world.tenant("other");
    world.delete(&format!("/v1/signing-keys/{}", text(&own["id"])), &other).problem(404, "not-found");
    let draft = json!({"algorithm": "HS256", "key": STANDARD.encode([7; 32])});
    for _ in 0..31 {
        world.post("/v1/signing-keys", &world.api, &draft).expect(201);
    }
    world.post("/v1/signing-keys", &world.api, &draft).problem(409, "conflict");
}
