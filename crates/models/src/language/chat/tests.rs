//! Templates beside what jinja2 3.1 writes with the settings of transformers 5.17.

use std::fs;

use super::*;

fn opened(folder: &Path) -> ChatTemplate {
    ChatTemplate::open(folder).unwrap().unwrap()
}

fn template(source: &str) -> ChatTemplate {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null,
    });
    fs::write(
        folder.path().join("tokenizer_config.json"),
        config.to_string(),
    )
    .unwrap();
    fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
    opened(folder.path())
}

fn talk() -> Vec<Message> {
    [
        (Role::System, "S"),
        (Role::User, "U"),
        (Role::Assistant, "A"),
    ]
    .map(|(role, text)| Message::text(role, text))
    .to_vec()
}

fn written(source: &str) -> String {
    let template = template(source);
    let text = template.render(&talk(), &ChatOptions::default());
    text.unwrap_or_else(|error| panic!("{source}: {error}"))
}

#[test]
fn words_alone_are_a_string_and_the_rest_a_list() {
    let template = template(
        "{{ bos_token }}{% for m in messages %}\n{{ m.role }}:{% if m.content is string %}\
         {{ m.content.strip() }}{% else %}{% for part in m.content %}[{{ part.type }}]\
         {% endfor %}{% endif %}{% endfor %}{{ eos_token }}{{ pad_token }}",
    );
    let mut said = Message::text(Role::User, " look ");
    let system = Message::text(Role::System, "  be brief");
    let text = |said: &Message| {
        template
            .render(&[system.clone(), said.clone()], &ChatOptions::default())
            .unwrap()
    };
    assert_eq!(text(&said), "<s>system:be briefuser:look</s>");
    said.content.push(Content::Image(RgbImage::new(1, 1)));
    assert_eq!(text(&said), "<s>system:be briefuser:[text][image]</s>");
}

#[test]
fn marks_of_generation_are_read_as_nothing() {
    for (source, text) in [
        ("{% generation %}\nx{% endgeneration %}\n|", "x|"),
        ("a {%- generation -%} x {%- endgeneration +%} b", "ax b"),
        ("{%generation%}x{%endgeneration%}", "x"),
        (
            "{% set x=1 %}{% generation %}{% set x = 2 %}{{x}}{% endgeneration %}{{x}}",
            "21",
        ),
        (
            "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
            "SUA",
        ),
        // Where the words are no tag they stay.
        ("{{ '{% generation %}' }}", "{% generation %}"),
        ("{{ 'it\\'s {% generation %}' }}", "it's {% generation %}"),
        ("{# {% generation %} #}x", "x"),
        ("{% raw %}{% generation %}{% endraw %}", "{% generation %}"),
        (
            "{ {generation} {% if true %}generation{% endif %}",
            "{ {generation} generation",
        ),
    ] {
        assert_eq!(written(source), text, "{source}");
    }
}

#[test]
fn templates_write_what_jinja_writes() {
    let cases = [
        (
            "{{ messages[0] }} {{ none }} {{ [1,'a',2.0,true] }}",
            "{'role': 'system', 'content': 'S'} None [1, 'a', 2.0, True]",
        ),
        (
            "{{ messages | tojson(indent=1) }}",
            "[\n {\n  \"role\": \"system\",\n  \"content\": \"S\"\n },\n {\n  \"role\": \"user\",\n  \
             \"content\": \"U\"\n },\n {\n  \"role\": \"assistant\",\n  \"content\": \"A\"\n }\n]",
        ),
        (
            "{{ 'ü😀\x7f' | tojson(ensure_ascii=True) }}",
            r#""\u00fc\ud83d\ude00\u007f""#,
        ),
        ("{{ '<ü\\'>&\\n' | tojson }}", r#""<ü'>&\n""#),
        (
            "{{ {'b':1,'a':[1,{}],'c':[]} | tojson(separators=(',',':'), sort_keys=True) }}",
            r#"{"a":[1,{}],"b":1,"c":[]}"#,
        ),
        (
            "{{ {'b':[{},1],'a':[]} | tojson }}",
            r#"{"b": [{}, 1], "a": []}"#,
        ),
        (
            "{{ {'b':1,'a':[[],{'c':{}}]} | tojson(indent=2) }}",
            "{\n  \"b\": 1,\n  \"a\": [\n    [],\n    {\n      \"c\": {}\n    }\n  ]\n}",
        ),
        (
            "{{ tools is none }} {{ documents is defined }} {{ tools is defined }}",
            "True True True",
        ),
        ("{{ 'x' in ('x','y') }}", "True"),
        (
            "{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('bc') }}",
            "bca",
        ),
        (
            "{{ 'a.b.c'.rsplit('.', 1) }} {{ 'a.b'.partition('.')[2] }}{{ 'a.b.c'.rpartition('.')[0] }}",
            "['a.b', 'c'] ba.b",
        ),
        ("{{ [1]+[2] }} {{ 'ab'.index('b') }}", "[1, 2] 1"),
        (
            "{{ dict(messages[0], content='z') }}",
            "{'role': 'system', 'content': 'z'}",
        ),
        (
            "{{ 'abc'[::-1] }} {{ 'abc'[-1] }} {{ messages[::-1][0].role }} {{messages[1:][0].role}}",
            "cba c assistant user",
        ),
        (
            "{{ messages | map(attribute='role') | join(',') }} \
             {{ messages|selectattr('role','equalto','user')|list|length }}",
            "system,user,assistant 1",
        ),
        (
            "{{ ns is defined }}{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}",
            "False2",
        ),
        (
            "{% macro f(x, y='d') %}[{{x}}{{y}}]{% endmacro %}{{ f('1') }}{{ f(y=2, x=3) }}",
            "[1d][32]",
        ),
        (
            "{{ messages[0].get('tool_calls') is none }} {{ messages[0].tool_calls is defined }} \
             {{ messages[0].get('x', 'd') }}",
            "True False d",
        ),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x }}", "a1"),
        (
            "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.content }}\
             {% if m.role=='assistant' %}{% break %}{% endif %}{% endfor %}",
            "SA",
        ),
        (
            "{{ enable_thinking is defined and enable_thinking is false }}",
            "False",
        ),
        (
            "{{ 'a b'.split() }} {{ 'a'.join(['x','y']) }} {{ '{}-{}'.format(1,2) }}",
            "['a', 'b'] xay 1-2",
        ),
        ("{% if true -%}\n   x\n{%- endif %}", "x"),
        ("    {% if true %}\n  y\n    {% endif %}\nz\n", "  y\nz"),
        (
            "{% for k,v in {'b':1,'a':2}|items %}{{k}}{{v}}{% endfor %} {% for k in {'b':1,'a':2} %}\
             {{ k }}{% endfor %}",
            "b1a2 ba",
        ),
        (
            "{{ messages is iterable and messages is not mapping }} {{ messages[0] is mapping }}",
            "True True",
        ),
        (
            "{{ none ~ 'a' ~ 1 ~ true }}{{ 'x' if false }}",
            "Nonea1True",
        ),
        (
            "{{ 'a</think>b'.split('</think>')[-1].lstrip('\\n') }}{{ 'hi there'|title }}{{ ' x '|trim }}",
            "bHi Therex",
        ),
        (
            "{{ messages[5] is defined }} {{ add_generation_prompt }}",
            "False True",
        ),
    ];
    for (source, text) in cases {
        assert_eq!(written(source), text, "{source}");
    }
}

#[test]
fn the_time_is_that_of_the_options() {
    let template =
        template("{% if strftime_now is defined %}{{ strftime_now('%d %b %Y, %A') }}{% endif %}");
    let options = ChatOptions {
        now: Some(OffsetDateTime::UNIX_EPOCH),
        ..ChatOptions::default()
    };
    let text = template.render(&[], &options).unwrap();
    assert_eq!(text, "01 Jan 1970, Thursday");
    let now = template.render(&[], &ChatOptions::default()).unwrap();
    assert!(now.len() > 10 && now != text, "{now}");
}

#[test]
fn templates_may_refuse() {
    let refuses = template("{{ raise_exception('roles must alternate') }}");
    let error = refuses.render(&[], &ChatOptions::default()).unwrap_err();
    assert!(
        error.to_string().contains("roles must alternate"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("chat_template.jinja"), "{% if %}").unwrap();
    let error = ChatTemplate::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja"), "{error}");
}

#[test]
fn templates_are_found_where_the_hub_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert!(ChatTemplate::open(folder.path()).unwrap().is_none());
    let text = || {
        opened(folder.path())
            .render(&[], &ChatOptions::default())
            .unwrap()
    };
    fs::write(path("chat_template.json"), r#"{"chat_template": "json"}"#).unwrap();
    assert_eq!(text(), "json");
    let named = |name: &str| {
        let list = serde_json::json!([
            {"name": "tool_use", "template": "tools"}, {"name": name, "template": "named"},
        ]);
        let config = serde_json::json!({"chat_template": list}).to_string();
        fs::write(path("tokenizer_config.json"), config).unwrap();
    };
    named("default");
    assert_eq!(text(), "named");
    let config = r#"{"chat_template": {"rag": "rag", "default": "object"}}"#;
    fs::write(path("tokenizer_config.json"), config).unwrap();
    assert_eq!(text(), "object");
    named("rag");
    let error = ChatTemplate::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tool_use, rag"), "{error}");
    fs::write(path("chat_template.jinja"), "file").unwrap();
    assert_eq!(text(), "file");
}

/// Rules, a question, an answer, a repair, as a template of `source` gets them.
fn in_its_manner(source: &str) -> (Manner, String) {
    let template = template(source);
    let manner = template.manner(&ChatOptions::default()).unwrap();
    let options = ChatOptions {
        manner,
        ..ChatOptions::default()
    };
    (manner, template.render(&talk(), &options).unwrap())
}

#[test]
fn the_manner_of_a_template_is_found() {
    let plain = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}";
    let (manner, text) = in_its_manner(plain);
    assert_eq!(manner, Manner::default());
    assert_eq!(text, "system=S;user=U;assistant=A;");
    let refuses = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}\
         {% endif %}{{ m.role }}={{ m.content }};{% endfor %}";
    let forgets = "{% for m in messages %}{% if m.role != 'system' %}{{ m.role }}={{ m.content }};\
         {% endif %}{% endfor %}";
    for source in [refuses, forgets] {
        let (manner, text) = in_its_manner(source);
        assert_eq!(manner.system, SystemPlace::Question);
        assert_eq!(text, "user=S\n\nU;assistant=A;");
    }
    let parts = "{% for m in messages %}{% for part in m.content %}{{ part.text }};{% endfor %}{% endfor %}";
    let (manner, text) = in_its_manner(parts);
    assert_eq!(manner.contents, Contents::Parts);
    assert_eq!(text, "S;U;A;");
    let both = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content[0]['text'] }};{% endif %}{% endfor %}";
    assert_eq!(in_its_manner(both).1, "S\n\nU;A;");
}

#[test]
fn a_template_without_any_manner_is_refused() {
    for (source, reason) in [
        ("{{ raise_exception('use the API') }}", "use the API"),
        (
            "{{ messages[0].content }}",
            "it leaves out what the user says",
        ),
        (
            "{% if messages|length > 2 %}{{ raise_exception('once') }}{% endif %}{{ messages }}",
            "once",
        ),
        ("{{ nothing.of.this }}", "undefined"),
    ] {
        let error = template(source).manner(&ChatOptions::default());
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(reason) && error.contains("chat_template.jinja"),
            "{error}"
        );
    }
}

#[test]
fn rules_go_before_the_words_of_the_first_question() {
    let mut question = Message::text(Role::User, "U");
    question
        .content
        .insert(0, Content::Image(RgbImage::new(1, 1)));
    let placed = SystemPlace::Question
        .place(&[Message::text(Role::System, "S"), question])
        .into_owned();
    let [
        Message {
            role: Role::User,
            content,
        },
    ] = placed.as_slice()
    else {
        panic!("{placed:?}");
    };
    assert!(
        matches!(content.as_slice(), [Content::Image(_), Content::Text(text)] if text == "S\n\nU")
    );
    let alone = SystemPlace::Question.place(&talk()[..1]).into_owned();
    assert_eq!(alone[0].role, Role::User);
}
