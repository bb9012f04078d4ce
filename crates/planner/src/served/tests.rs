//! A served model against a server that misbehaves in every way it was told to.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use serde_json::{Value, json};
use storyloom_pictures::{Limits, Picture, PictureFolder};
use storyloom_story::{Brief, Outlook, Seed, StoryId};

use super::*;
use crate::chat::{ChatMessage, Flaw, Role};
use crate::planner::{
    BackendKind, PlanError, PlanRequest, PlannedScript, Planner, PlannerSettings,
};
use crate::schema::Bounds;

/// What a server says to a question: a status and a text.
type Answer = fn(&Value) -> (u16, String);

/// What the server does with one request.
#[derive(Debug, Clone)]
enum Act {
    Answer(String),
    Say(u16, &'static str, &'static str),
    /// Answers after this time.
    Slow(Duration, String),
    /// Promises more bytes than it sends.
    Cut,
    /// Hangs up before it says anything.
    HangUp,
    /// No HTTP at all.
    Noise,
    /// Answers by what was asked.
    By(fn(&Value) -> (u16, String)),
}

#[derive(Debug, Clone)]
struct Seen {
    line: String,
    headers: Vec<String>,
    body: Value,
}

#[derive(Default)]
struct Story {
    acts: Mutex<VecDeque<Act>>,
    seen: Mutex<Vec<Seen>>,
    inside: AtomicUsize,
    most_inside: AtomicUsize,
}

struct Server {
    address: String,
    story: Arc<Story>,
}

impl Server {
    /// Does `acts` in order, and the last one again and again.
    fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let story = Arc::new(Story {
            acts: Mutex::new(acts.into_iter().collect()),
            ..Story::default()
        });
        let shared = Arc::clone(&story);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let story = Arc::clone(&shared);
                // A client that has given up is no error.
                std::thread::spawn(move || story.serve(stream).unwrap_or_default());
            }
        });
        Self { address, story }
    }

    fn seen(&self) -> Vec<Seen> {
        self.story.seen.lock().unwrap().clone()
    }
}

impl Story {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let length = head.iter().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        self.seen.lock().unwrap().push(Seen {
            line: head.remove(0),
            headers: head,
            body: body.clone(),
        });
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_inside.fetch_max(inside, Ordering::SeqCst);
        self.act(&mut stream, &body)
    }

    fn act(&self, stream: &mut TcpStream, asked: &Value) -> std::io::Result<()> {
        let act = {
            let mut acts = self.acts.lock().unwrap();
            match acts.len() {
                1 => acts.front().cloned(),
                _ => acts.pop_front(),
            }
        };
        if let Some(Act::Slow(time, _)) = &act {
            std::thread::sleep(*time);
        }
        // Before the answer: the thread that has it may let the next question in.
        self.inside.fetch_sub(1, Ordering::SeqCst);
        match act {
            Some(Act::Answer(text)) => reply(stream, 200, "", &completion(&text)),
            Some(Act::Say(status, headers, body)) => reply(stream, status, headers, body),
            Some(Act::Slow(_, text)) => reply(stream, 200, "", &completion(&text)),
            Some(Act::Cut) => {
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{{\"choi"
                )
            }
            Some(Act::By(rule)) => {
                let (status, body) = rule(asked);
                reply(stream, status, "", &body)
            }
            Some(Act::Noise) => write!(stream, "\u{1}\u{2}no http\r\n\r\n"),
            Some(Act::HangUp) | None => Ok(()),
        }
    }
}

fn reply(stream: &mut TcpStream, status: u16, headers: &str, body: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
}

fn completion(text: &str) -> String {
    json!({
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    })
    .to_string()
}

fn settings(endpoint: &str) -> ServedSettings {
    ServedSettings {
        endpoint: endpoint.to_owned(),
        model: "a-model".to_owned(),
        key: Secret::new("sk-very-secret\n"),
        concurrency: 2,
        per_minute: 0,
        timeout: Duration::from_secs(20),
        retries: 3,
        backoff: Duration::from_millis(5),
        longest_pause: Duration::from_secs(5),
        format: ResponseFormat::Schema,
        sampling: Sampling {
            temperature: 0.7,
            top_p: 0.9,
            top_k: 0,
            max_tokens: 100,
        },
        picture_side: 8,
        stop: Arc::new(|| false),
    }
}

fn question() -> ChatRequest {
    let bounds = Bounds {
        shots: 2,
        prompt: 200,
        product: true,
    };
    ChatRequest {
        turns: vec![
            ChatMessage {
                role: Role::System,
                text: "Rules.".to_owned(),
            },
            ChatMessage::user("Write."),
        ],
        picture: None,
        schema: bounds.script(),
        seed: 0xffff_ffff_ffff_fff1,
        needs_picture: false,
    }
}

fn ask(server: &Server) -> Result<ChatReply, ChatError> {
    Served::new(settings(&server.address))
        .unwrap()
        .ask(&question())
}

fn answer(text: &str) -> Act {
    Act::Answer(text.to_owned())
}

#[test]
fn a_question_is_sent_as_the_protocol_wants_it() {
    let server = Server::start([answer("{}")]);
    let served = Served::new(settings(&server.address)).unwrap();
    let picture = Picture {
        pixels: image::RgbImage::new(16, 16),
        sha256: String::new(),
    };
    let mut request = question();
    request.picture = Some(Arc::new(picture));
    request.turns.push(ChatMessage::assistant("x"));
    request.turns.push(ChatMessage::user("Again."));
    let reply = served.ask(&request).unwrap();
    assert_eq!(reply.text, "{}");
    assert_eq!((reply.tokens.prompt, reply.tokens.completion), (7, 3));
    let seen = server.seen().remove(0);
    assert_eq!(seen.line, "POST /v1/chat/completions HTTP/1.1");
    let key = |line: &&String| line.to_lowercase().starts_with("authorization:");
    assert!(
        seen.headers
            .iter()
            .find(key)
            .unwrap()
            .ends_with("Bearer sk-very-secret")
    );
    let body = &seen.body;
    assert_eq!(body["model"], "a-model");
    assert_eq!(body["seed"], 0x7fff_fff1);
    assert_eq!(
        (&body["temperature"], &body["top_p"]),
        (&json!(0.7), &json!(0.9))
    );
    assert_eq!(body["response_format"]["type"], "json_schema");
    let schema = &body["response_format"]["json_schema"]["schema"];
    assert_eq!(schema["properties"]["shots"]["minItems"], 2);
    assert!(!schema.to_string().contains("Length"), "{schema}");
    assert_eq!(body["chat_template_kwargs"]["enable_thinking"], false);
    assert_eq!(body["max_tokens"], 100);
    let messages = body["messages"].as_array().unwrap();
    let roles: Vec<_> = messages.iter().map(|message| &message["role"]).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user"]);
    let url = messages[1]["content"][0]["image_url"]["url"]
        .as_str()
        .unwrap();
    assert!(url.starts_with("data:image/png;base64,"), "{url}");
    assert_eq!(messages[1]["content"][1]["text"], "Write.");
    assert_eq!(messages[3]["content"], "Again.");
}

#[test]
fn what_can_pass_is_tried_again() {
    for act in [
        Act::Say(500, "", "{\"error\": {\"message\": \"oops\"}}"),
        Act::Say(503, "", ""),
        Act::Say(429, "Retry-After: 0\r\n", ""),
        Act::Say(200, "", "<html>busy</html>"),
        Act::Say(
            200,
            "",
            "{\"error\": {\"message\": \"busy\", \"code\": 502}}",
        ),
        Act::Say(200, "", "data: {\"choices\": []}\n\n"),
        Act::Cut,
        Act::HangUp,
        Act::Noise,
    ] {
        let server = Server::start([act.clone(), act.clone(), answer("fine")]);
        let reply = ask(&server).unwrap_or_else(|error| panic!("{act:?}: {error}"));
        assert_eq!(reply.text, "fine");
        assert_eq!(server.seen().len(), 3, "{act:?}");
    }
}

#[test]
fn a_slow_server_is_given_up_on_and_asked_again() {
    let slow = Act::Slow(Duration::from_secs(20), "late".to_owned());
    let server = Server::start([slow, answer("fine")]);
    let quick = ServedSettings {
        timeout: Duration::from_millis(300),
        // Also a machine at its limits gets an answer in at some time.
        retries: 100,
        ..settings(&server.address)
    };
    let reply = Served::new(quick).unwrap().ask(&question()).unwrap();
    assert_eq!(reply.text, "fine");
}

#[test]
fn a_server_that_stays_bad_is_away() {
    for act in [
        Act::Say(500, "", "{\"detail\": \"no memory left\"}"),
        Act::Noise,
        Act::Cut,
    ] {
        let server = Server::start([act]);
        let error = ask(&server).unwrap_err();
        assert_eq!(error.class, ErrorClass::ServiceAway, "{error}");
        assert!(error.message.contains("(asked 4 times)"), "{error}");
        assert_eq!(server.seen().len(), 4);
    }
    // Nobody listens there, and nobody is given that port.
    let served = Served::new(settings("http://127.0.0.1:1/v1")).unwrap();
    assert_eq!(
        served.ask(&question()).unwrap_err().class,
        ErrorClass::ServiceAway
    );
}

#[test]
fn what_cannot_pass_is_told_at_once() {
    for (act, class, wanted) in [
        (
            Act::Say(
                401,
                "",
                "{\"error\": {\"message\": \"wrong key sk-very-secret\"}}",
            ),
            ErrorClass::Run,
            "said 401: wrong key [key]",
        ),
        (
            Act::Say(404, "", "{\"detail\": \"no such model\"}"),
            ErrorClass::Run,
            "no such model",
        ),
        (
            Act::Say(404, "", "<html><h1>Not Found</h1></html>"),
            ErrorClass::Run,
            "a web page: Not Found; is planner.endpoint",
        ),
        (
            Act::Say(403, "", ""),
            ErrorClass::Run,
            "said 403; is the key",
        ),
        (
            Act::Say(308, "Location: https://other/v1/chat/completions\r\n", ""),
            ErrorClass::Run,
            "it sends us to https://other/v1",
        ),
        (
            Act::Say(
                400,
                "",
                "{\"error\": {\"message\": \"The model `a-model` does not exist.\"}}",
            ),
            ErrorClass::Run,
            "set planner.model",
        ),
    ] {
        let server = Server::start([act]);
        let error = ask(&server).unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert!(error.message.contains(wanted), "{error}");
        assert!(!error.message.contains("sk-very"), "{error}");
        assert_eq!(server.seen().len(), 1);
    }
}

#[test]
fn the_key_follows_no_redirect_and_is_not_shown() {
    let other = Server::start([answer("stolen")]);
    let target: &'static str = format!("Location: {}/chat/completions\r\n", other.address).leak();
    for status in [301, 302, 307, 308] {
        let server = Server::start([Act::Say(status, target, "")]);
        assert_eq!(ask(&server).unwrap_err().class, ErrorClass::Run);
    }
    assert_eq!(other.seen().len(), 0);
    let shown = format!("{:?}", Secret::new("sk-very-secret"));
    assert!(!shown.contains("sk-very"), "{shown}");
}

#[test]
fn wishes_of_the_server_hold_for_all_questions() {
    let busy = Act::Say(429, "Retry-After: 0.4\r\n", "");
    let server = Server::start([busy, answer("fine")]);
    let served = Served::new(settings(&server.address)).unwrap();
    let start = Instant::now();
    served.ask(&question()).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(400));

    let far = Server::start([Act::Say(429, "Retry-After: 3600\r\n", "")]);
    assert_eq!(ask(&far).unwrap_err().class, ErrorClass::ServiceAway);
    assert_eq!(far.seen().len(), 1);
}

#[test]
fn a_pause_is_seconds_or_a_date() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
    let pause = |value| retry::wished_pause(value, now);
    assert_eq!(pause("7"), Some(Duration::from_secs(7)));
    assert_eq!(
        pause("Sun, 06 Nov 1994 08:49:37 GMT"),
        Some(Duration::from_secs(7))
    );
    assert_eq!(pause("Tue, 06 Nov 1984 08:49:37 GMT"), Some(Duration::ZERO));
    assert_eq!(
        (pause("soon"), pause("-3"), pause("inf")),
        (None, None, None)
    );
}

#[test]
fn no_more_questions_at_once_than_allowed() {
    let server = Server::start([Act::Slow(Duration::from_millis(30), "x".to_owned())]);
    let served = Served::new(settings(&server.address)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..9 {
            scope.spawn(|| served.ask(&question()).unwrap());
        }
    });
    assert_eq!(server.seen().len(), 9);
    assert!(server.story.most_inside.load(Ordering::SeqCst) <= 2);
}

#[test]
fn questions_keep_their_distance() {
    let server = Server::start([answer("x")]);
    let slow = ServedSettings {
        per_minute: 300,
        ..settings(&server.address)
    };
    let served = Served::new(slow).unwrap();
    let start = Instant::now();
    for _ in 0..3 {
        served.ask(&question()).unwrap();
    }
    assert!(start.elapsed() >= Duration::from_millis(400));
}

/// For its turn as well as for an answer that is on its way.
#[test]
fn a_stop_ends_waiting() {
    const LONG: Duration = Duration::from_secs(40);
    for act in [
        Act::Say(503, "Retry-After: 4\r\n", ""),
        Act::Slow(LONG, "x".to_owned()),
    ] {
        let start = Instant::now();
        stopped_while(act);
        assert!(start.elapsed() < LONG / 2, "it waited for the answer");
    }
}

fn stopped_while(act: Act) {
    let server = Server::start([act]);
    let flag = Arc::new(AtomicBool::new(false));
    let heeded = Arc::clone(&flag);
    let stopping = ServedSettings {
        timeout: Duration::from_secs(60),
        stop: Arc::new(move || heeded.load(Ordering::Relaxed)),
        ..settings(&server.address)
    };
    let served = Served::new(stopping).unwrap();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| served.ask(&question()));
        while server.seen().is_empty() {
            std::thread::yield_now();
        }
        flag.store(true, Ordering::Relaxed);
        let error = asked.join().unwrap().unwrap_err();
        assert_eq!(error.class, ErrorClass::Interrupted);
    });
}

#[test]
fn wrong_addresses_are_told() {
    for bad in [
        "127.0.0.1:8000",
        "ftp://a/v1",
        "http://",
        "http://u:p@host/v1",
        "http://h/v1?x=1",
    ] {
        let error = Served::new(settings(bad)).err();
        assert_eq!(
            error.map(|error| error.class),
            Some(ErrorClass::Run),
            "{bad}"
        );
    }
}

const SCRIPT: &str = r#"{"title": "T", "overview": "O", "product": "kettle", "shots": [
    {"scene": 1, "cut": true, "prompt": "Wide shot: a cold kitchen in blue light.", "keyframe": "A cold kitchen, wide."},
    {"scene": 2, "cut": true, "prompt": "Close-up: the kettle steams in warm light.", "keyframe": "A kettle on a stove, close."}]}"#;

/// Has `count` briefs planned, the first of which is called Odd.
fn plan_some(server: &Server, count: usize) -> Vec<Result<PlannedScript, PlanError>> {
    let images = PictureFolder::new(".", Limits::default());
    let patient = ServedSettings {
        retries: 1,
        ..settings(&server.address)
    };
    let sampling = Sampling {
        max_tokens: 8192,
        ..patient.sampling
    };
    let chat = Served::new(ServedSettings {
        sampling,
        ..patient
    })
    .unwrap();
    let planner = Planner::of_model(
        BackendKind::Served,
        Box::new(chat),
        sampling,
        PlannerSettings::new(images),
    )
    .unwrap();
    let briefs: Vec<_> = (0..count)
        .map(|number| Brief {
            title: Some(
                if number == 0 {
                    "Odd kettle"
                } else {
                    "Ember kettle"
                }
                .to_owned(),
            ),
            shots: 2,
            ..Brief::new(StoryId::new(format!("a{number}")).unwrap())
        })
        .collect();
    let requests: Vec<_> = briefs
        .iter()
        .map(|brief| PlanRequest {
            brief,
            seed: Seed(1),
            attempt: 0,
        })
        .collect();
    planner.plan(&requests)
}

fn error_text(message: &str) -> String {
    json!({"error": {"message": message, "type": "invalid_request_error"}}).to_string()
}

fn good() -> (u16, String) {
    (200, completion(SCRIPT))
}

fn is_odd(asked: &Value) -> bool {
    asked["messages"].to_string().contains("Odd kettle")
}

/// A server refuses a part of every question: it is left out, everybody is planned, and the plan
/// says how it was asked.
#[test]
fn what_a_server_refuses_of_all_is_left_out_and_kept_in_mind() {
    let rules: [(&str, Answer); 13] = [
        (
            "max_completion_tokens instead",
            |asked| match asked["max_tokens"].is_null() {
                true => good(),
                false => (
                    400,
                    error_text(
                        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                    ),
                ),
            },
        ),
        (
            "response_format left out",
            |asked| match asked["response_format"].is_null() {
                true => good(),
                false => (
                    400,
                    json!({"error": {"message": "no", "param": "response_format"}}).to_string(),
                ),
            },
        ),
        ("any JSON object", |asked| {
            match asked["response_format"]["type"] == "json_object" {
                true => good(),
                false => (500, error_text("json_schema is not supported")),
            }
        }),
        (
            "schema without bounds",
            |asked| match asked["response_format"].to_string().contains("minItems") {
                true => (
                    400,
                    error_text("Invalid schema for response_format: 'minItems' is not permitted."),
                ),
                false => good(),
            },
        ),
        ("chat_template_kwargs left out", |asked| {
            match asked["chat_template_kwargs"].is_null() {
            true => good(),
            false => (422, json!({"detail": [{"loc": ["body", "chat_template_kwargs"], "msg": "Extra inputs are not permitted"}]}).to_string()),
        }
        }),
        ("seed left out", |asked| match asked["seed"].is_null() {
            true => good(),
            false => (400, "unknown field: seed".to_owned()),
        }),
        ("temperature left out", |asked| {
            match asked["temperature"].is_null() {
                true => good(),
                false => (
                    400,
                    error_text(
                        "Unsupported value: 'temperature' does not support 0.7 with this model.",
                    ),
                ),
            }
        }),
        ("at most 4096 tokens", |asked| {
            match asked["max_tokens"].as_u64() {
                Some(most) if most > 4096 => (
                    400,
                    error_text(
                        "max_tokens is too large: 8192. This model supports at most 4096 completion tokens.",
                    ),
                ),
                _ => good(),
            }
        }),
        (
            "context of 4096 tokens",
            |asked| match asked["max_tokens"].as_u64() {
                Some(most) if most > 3000 => (
                    400,
                    error_text(
                        "This model's maximum context length is 4096 tokens. However, you requested 9192 tokens (1000 in the messages, 8192 in the completion).",
                    ),
                ),
                _ => good(),
            },
        ),
        ("at most 2048 tokens", |asked| {
            match asked["max_tokens"].as_u64() {
                Some(most) if most > 3000 => (400, error_text("max_tokens is too large")),
                _ => good(),
            }
        }),
        ("streamed", |asked| match asked["stream"] == true {
            true => (
                200,
                format!(
                    "data: {}\n\ndata: [DONE]\n\n",
                    json!({"choices": [{"delta": {"content": SCRIPT}}]})
                ),
            ),
            false => (400, error_text("this model only supports stream mode")),
        }),
        ("role system", |asked| {
            match asked["messages"][0]["role"] == "user" {
                true => good(),
                false => (400, error_text("System role not supported")),
            }
        }),
        // It does not say what it is.
        ("top_p left out", |asked| match asked["top_p"].is_null() {
            true => good(),
            false => (400, error_text("bad request")),
        }),
    ];
    for (departure, rule) in rules {
        let server = Server::start([Act::By(rule)]);
        for planned in plan_some(&server, 6) {
            let planned = planned.unwrap_or_else(|error| panic!("{departure}: {error}"));
            assert_eq!(planned.repairs, 0, "{departure}");
            assert!(
                planned
                    .departures
                    .iter()
                    .any(|told| told.contains(departure)),
                "{departure}: {:?}",
                planned.departures
            );
            assert_eq!(planned.departures.len(), 1, "{:?}", planned.departures);
        }
        let refused = server.seen().len() - 6;
        assert!(refused <= 8, "{departure}: {refused} questions too many");
    }
}

/// What every question would meet ends it, before anybody is set aside and before everybody asked.
#[test]
fn what_nobody_gets_past_is_nobodys_fault() {
    let rules: [(&str, u16, &str); 7] = [
        (
            "does not exist",
            400,
            "{\"error\": {\"message\": \"The model `m` does not exist.\"}}",
        ),
        ("bad luck", 400, "{\"error\": \"bad luck\"}"),
        ("Bad Request", 422, "<html>Bad Request</html>"),
        ("said 413", 413, ""),
        ("no chat completion", 200, "<html>Welcome</html>"),
        ("no such page", 404, "no such page"),
        ("said 401", 401, "{}"),
    ];
    for (words, status, body) in rules {
        let server = Server::start([Act::Say(status, "", body)]);
        for planned in plan_some(&server, 6) {
            let error = planned.unwrap_err();
            assert_eq!(error.class, ErrorClass::Run, "{words}: {error}");
            assert!(error.message.contains(words), "{words}: {error}");
        }
        let asked = server.seen().len();
        assert!(asked < 6, "{words}: {asked} questions");
    }
}

/// What concerns one question is its brief's: it is set aside with what to do, and the others are
/// planned.
#[test]
fn what_one_question_meets_is_its_own() {
    fn odd(asked: &Value, status: u16, body: Value) -> (u16, String) {
        if is_odd(asked) {
            return (status, body.to_string());
        }
        good()
    }
    fn message(message: Value, end: &str) -> Value {
        json!({"choices": [{"message": message, "finish_reason": end}], "usage": {"prompt_tokens": null}})
    }
    let rules: [(&str, Answer); 11] = [
        ("planner.max_tokens", |asked| {
            odd(
                asked,
                200,
                message(
                    json!({"content": null, "reasoning_content": "hm"}),
                    "length",
                ),
            )
        }),
        ("planner.max_tokens", |asked| {
            odd(
                asked,
                200,
                message(json!({"content": "{\"title\": \"x"}), "length"),
            )
        }),
        ("content filter", |asked| {
            odd(
                asked,
                200,
                message(json!({"content": null}), "content_filter"),
            )
        }),
        ("tool calls only (search)", |asked| {
            odd(
                asked,
                200,
                message(
                    json!({"content": null, "tool_calls": [{"function": {"name": "search"}}]}),
                    "tool_calls",
                ),
            )
        }),
        ("only reasoning", |asked| {
            odd(
                asked,
                200,
                message(json!({"content": "", "reasoning": "hm"}), "stop"),
            )
        }),
        ("declines to answer: I cannot", |asked| {
            odd(
                asked,
                200,
                message(json!({"content": null, "refusal": "I cannot"}), "stop"),
            )
        }),
        ("no content", |asked| {
            odd(asked, 200, json!({"choices": []}))
        }),
        ("filter of the server", |asked| {
            odd(
                asked,
                400,
                json!({"error": {"message": "no", "code": "content_filter"}}),
            )
        }),
        ("about this brief", |asked| {
            odd(asked, 400, json!({"error": "bad luck"}))
        }),
        ("about this brief", |asked| odd(asked, 413, json!(null))),
        ("fewer shots", |asked| {
            odd(
                asked,
                400,
                json!({"error": {"message": "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens."}}),
            )
        }),
    ];
    for (words, rule) in rules {
        let server = Server::start([Act::By(rule)]);
        let mut planned = plan_some(&server, 4).into_iter();
        let error = planned.next().unwrap().unwrap_err();
        assert_eq!(error.class, ErrorClass::Shot, "{words}: {error}");
        assert_eq!(error.outlook, Outlook::Hopeless, "{words}");
        assert!(error.message.contains(words), "{words}: {error}");
        for planned in planned {
            assert_eq!(planned.unwrap().departures, [""; 0], "{words}");
        }
        let asked = server
            .seen()
            .iter()
            .filter(|seen| is_odd(&seen.body))
            .count();
        assert!(asked <= 2, "{words}: asked {asked} times");
    }
}

/// A flaw that does not come again is repaired.
#[test]
fn what_can_be_put_right_is_put_right() {
    let flawed = |message: Value, end: &str| {
        let body = json!({"choices": [{"message": message, "finish_reason": end}]}).to_string();
        Act::Say(200, "", body.leak())
    };
    for act in [
        flawed(json!({"content": null}), "stop"),
        flawed(json!({"content": "{\"title\": "}), "length"),
        flawed(json!({"content": null, "reasoning_content": "hm"}), "stop"),
        flawed(
            json!({"content": null, "tool_calls": [{"function": {"name": "f"}}]}),
            "tool_calls",
        ),
    ] {
        let server = Server::start([act.clone(), Act::Answer(SCRIPT.to_owned())]);
        let planned = plan_some(&server, 1).remove(0).unwrap();
        assert_eq!(planned.repairs, 1, "{act:?}");
        let messages = server.seen()[1].body["messages"].clone();
        let messages = messages.as_array().unwrap();
        assert_eq!(messages.len(), 2, "nothing empty is said again: {act:?}");
        let hint = messages[1]["content"].as_str().unwrap();
        assert!(hint.contains("answer with the JSON object"), "{hint}");
    }
    let whole = flawed(json!({"content": SCRIPT}), "length");
    let planned = plan_some(&Server::start([whole]), 1).remove(0).unwrap();
    assert_eq!(planned.repairs, 0, "all of it was said");
}

/// A picture that the model does not take is left out where there are words; a brief of a picture
/// alone is set aside.
#[test]
fn models_without_eyes_are_not_shown_pictures() {
    let server = Server::start([Act::By(|asked| {
        match asked["messages"].to_string().contains("image_url") {
            true => (400, error_text("This model does not support image input")),
            false => good(),
        }
    })]);
    let served = Served::new(settings(&server.address)).unwrap();
    let mut request = question();
    request.picture = Some(Arc::new(Picture {
        pixels: image::RgbImage::new(16, 16),
        sha256: String::new(),
    }));
    let reply = served.ask(&request).unwrap();
    assert!(reply.unseen);
    assert_eq!(reply.departures, ["the picture left out"]);
    request.needs_picture = true;
    let error = served.ask(&request).unwrap_err();
    assert_eq!(
        (error.class, error.outlook),
        (ErrorClass::Shot, Outlook::Hopeless)
    );
    assert!(error.message.contains("give it a title"), "{error}");
}

#[test]
fn a_flaw_is_told_with_the_answer() {
    let server = Server::start([Act::Say(200, "", "{\"choices\": []}")]);
    assert_eq!(ask(&server).unwrap().flaw, Some(Flaw::Empty));
}

/// A broken server is not answered by changing the question.
#[test]
fn what_the_server_gets_wrong_is_its_own() {
    for (status, body) in [
        (500, "{\"error\": {\"message\": \"CUDA error\"}}"),
        (503, "max_tokens"),
        (529, ""),
    ] {
        let server = Server::start([Act::Say(status, "", body)]);
        for planned in plan_some(&server, 3) {
            assert_eq!(
                planned.unwrap_err().class,
                ErrorClass::ServiceAway,
                "{status}"
            );
        }
        assert_eq!(
            server.seen().len(),
            2,
            "{status}: the first question, once more, and no other"
        );
    }
}

#[test]
fn several_briefs_are_planned_through_a_bad_connection() {
    let server = Server::start([
        Act::HangUp,
        answer("no json"),
        Act::Say(500, "", ""),
        Act::Cut,
        Act::Answer(SCRIPT.to_owned()),
    ]);
    let images = PictureFolder::new(".", Limits::default());
    let sampling = settings("").sampling;
    let chat = Served::new(settings(&server.address)).unwrap();
    let planner = Planner::of_model(
        BackendKind::Served,
        Box::new(chat),
        sampling,
        PlannerSettings::new(images),
    )
    .unwrap();
    let briefs: Vec<_> = (0..4)
        .map(|number| Brief {
            title: Some("Ember Kettle".to_owned()),
            shots: 2,
            ..Brief::new(StoryId::new(format!("a{number}")).unwrap())
        })
        .collect();
    let requests: Vec<_> = briefs
        .iter()
        .map(|brief| PlanRequest {
            brief,
            seed: Seed(1),
            attempt: 0,
        })
        .collect();
    for planned in planner.plan(&requests) {
        let planned = planned.unwrap();
        assert_eq!(planned.script.shot_count(), 2);
        assert!(planned.repairs <= 1);
    }
    let described = serde_json::to_string(&planner.describe()).unwrap();
    assert!(
        described.contains("a-model") && !described.contains("sk-very"),
        "{described}"
    );
}
