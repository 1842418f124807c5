"""Which consumer serves a model, and how the lists of several consumers become one."""

from __future__ import annotations

from typing import Any

from gpumand.gateway.catalog import Lists
from gpumand.gateway.entrance_config import ModelRule
from gpumand.gateway.models import (
    Choice,
    Offer,
    anthropic_list,
    choose,
    known_ids,
    ollama_list,
    openai_list,
    rules_for,
    running_list,
)
from gpumand.gateway.requests import Client


def openai(*ids: str, **more: Any) -> Lists:
    return Lists(openai=tuple({"id": one, "object": "model", **more} for one in ids))


def ollama(*names: str, running: tuple[str, ...] = ()) -> Lists:
    tags = tuple({"name": one, "model": one, "size": 1} for one in names)
    return Lists(ollama=tags, running=tuple({"name": one} for one in running))


LLAMA = Offer("llama", True, openai("qwen3", "org/phi-4"))
OLLAMA = Offer("ollama", True, ollama("gemma3:latest", "qwen3:8b", running=("gemma3:latest",)), speaks_ollama=True)
OFFERS = [LLAMA, OLLAMA]


def chosen(model: str, *rules: ModelRule, offers: list[Offer] | None = None) -> Choice | None:
    return choose(model, rules, OFFERS if offers is None else offers)


def test_model_goes_to_the_first_consumer_that_lists_it() -> None:
    assert chosen("qwen3") == Choice("llama", "qwen3")
    assert chosen("qwen3:8b") == Choice("ollama", "qwen3:8b")
    assert chosen("org/phi-4") == Choice("llama", "org/phi-4")


def test_ollama_model_needs_no_tag() -> None:
    assert chosen("gemma3") == Choice("ollama", "gemma3")
    assert chosen("gemma3:1b") is None


def test_id_that_a_server_has_listed_comes_before_one_that_only_lacks_its_tag() -> None:
    plain = Offer("vllm", True, openai("gemma3"))

    for offers in ([OLLAMA, plain], [plain, OLLAMA]):
        assert {"gemma3", "gemma3:latest"} <= {one["id"] for one in openai_list((), offers)}
        assert chosen("gemma3", offers=offers) == Choice("vllm", "gemma3")
        assert chosen("gemma3:latest", offers=offers) == Choice("ollama", "gemma3:latest")


def test_consumer_before_a_slash_is_removed_from_the_name() -> None:
    assert chosen("ollama/qwen3") == Choice("ollama", "qwen3")
    assert chosen("nothing/qwen3") is None


def test_listed_model_of_an_organisation_that_has_the_name_of_a_consumer_is_reached() -> None:
    studio, qwen = Offer("studio", True, openai("qwen/qwen3-8b", "qwen/small")), Offer("qwen", True, openai("small"))
    offers = [studio, qwen]

    assert [one["id"] for one in openai_list((), offers)] == ["qwen/qwen3-8b", "qwen/small", "small"]
    assert chosen("qwen/qwen3-8b", offers=offers) == Choice("studio", "qwen/qwen3-8b")
    assert chosen("qwen/small", offers=offers) == Choice("qwen", "small"), "the name of the consumer comes first"
    assert chosen("qwen/other", offers=offers) == Choice("qwen", "other")


def test_name_of_a_consumer_counts_as_a_model() -> None:
    assert chosen("llama") == Choice("llama", "llama")


def test_exact_rules_come_before_patterns_and_patterns_before_lists() -> None:
    rules = (
        ModelRule(pattern="qwen*", consumer="a"),
        ModelRule(pattern="*", consumer="b", as_="any"),
        ModelRule(pattern="qwen3", consumer="c", as_="Qwen/Qwen3"),
    )

    assert chosen("qwen3", *rules) == Choice("c", "Qwen/Qwen3")
    assert chosen("qwen2", *rules) == Choice("a", "qwen2")
    assert chosen("gemma3", *rules) == Choice("b", "any")


def test_list_has_every_model_with_its_status() -> None:
    found = openai_list((), OFFERS)

    assert [(one["id"], one["status"]["value"]) for one in found] == [
        ("qwen3", "loaded"),
        ("org/phi-4", "loaded"),
        ("gemma3:latest", "loaded"),
        ("qwen3:8b", "unloaded"),
    ]
    assert {one["object"] for one in found} == {"model"}


def test_models_of_stopped_consumers_are_unloaded_whatever_they_said() -> None:
    offer = Offer("router", False, openai("a", status={"value": "loaded"}, meta={"n_ctx": 4096}))

    (found,) = openai_list((), [offer])

    assert found["status"] == {"value": "unloaded"}
    assert found["meta"] == {"n_ctx": 4096}


def test_second_consumer_with_the_same_model_is_listed_with_its_name() -> None:
    other = Offer("other", False, openai("qwen3"))

    assert [one["id"] for one in openai_list((), [LLAMA, other])] == ["qwen3", "org/phi-4", "other/qwen3"]
    assert chosen("other/qwen3", offers=[LLAMA, other]) == Choice("other", "qwen3")


def test_rules_are_listed_instead_of_what_they_rename() -> None:
    rules = (ModelRule(pattern="small", consumer="llama", as_="org/phi-4"), ModelRule(pattern="x*", consumer="llama"))

    assert [one["id"] for one in openai_list(rules, [LLAMA])] == ["small", "qwen3"]


def test_consumer_that_never_ran_is_listed_by_its_name() -> None:
    assert [one["id"] for one in openai_list((), [Offer("new", False, Lists())])] == ["new"]
    assert openai_list((), [Offer("hidden", False, openai("a"), is_listed=False)]) == []


def test_lists_of_ollama_are_merged_verbatim() -> None:
    second = Offer("second", True, ollama("gemma3:latest"), speaks_ollama=True)

    assert ollama_list((), [LLAMA, OLLAMA, second]) == [
        *OLLAMA.lists.ollama,
        {"name": "second/gemma3:latest", "model": "second/gemma3:latest", "size": 1},
    ]
    assert running_list([LLAMA, OLLAMA]) == [{"name": "gemma3:latest"}]


def test_known_ids_have_each_id_once() -> None:
    rules = (ModelRule(pattern="qwen3", consumer="llama"),)

    assert known_ids(rules, [LLAMA]) == ["qwen3", "org/phi-4"]


def test_lists_have_no_model_whose_requests_a_pattern_sends_to_another_consumer() -> None:
    rules = (ModelRule(pattern="qwen*", consumer="new"), ModelRule(pattern="gemma*", consumer="ollama"))
    offers = [*OFFERS, Offer("new", False, Lists())]
    listed = [str(one["id"]) for one in openai_list(rules, offers)]

    assert listed == ["llama/qwen3", "org/phi-4", "gemma3:latest", "ollama/qwen3:8b", "new"]
    assert [one["name"] for one in ollama_list(rules, offers)] == ["gemma3:latest", "ollama/qwen3:8b"]
    reached = [choice.consumer for name in listed if (choice := chosen(name, *rules, offers=offers)) is not None]
    assert reached == ["llama", "llama", "ollama", "ollama", "new"]
    all_go_to_one = (ModelRule(pattern="*", consumer="llama"),)
    assert [one["id"] for one in openai_list(all_go_to_one, OFFERS)] == ["qwen3", "org/phi-4"]
    assert ollama_list(all_go_to_one, OFFERS) == []


def test_names_of_rules_are_in_the_list_of_ollama_with_the_entry_of_their_model() -> None:
    rules = (
        ModelRule(pattern="assistant", consumer="ollama", as_="gemma3"),
        ModelRule(pattern="qwen3:8b", consumer="ollama"),
        ModelRule(pattern="chat*", consumer="ollama"),
        ModelRule(pattern="gpt", consumer="llama", as_="qwen3"),
    )
    gemma, qwen = OLLAMA.lists.ollama

    found = ollama_list(rules, OFFERS)

    assert found == [gemma | {"name": "assistant:latest", "model": "assistant:latest"}, qwen, gemma]
    assert [chosen(str(one["name"]), *rules) for one in found] == [
        Choice("ollama", "gemma3"),
        Choice("ollama", "qwen3:8b"),
        Choice("ollama", "gemma3:latest"),
    ]


def test_name_of_a_rule_whose_server_never_ran_has_all_keys_of_an_entry_of_ollama() -> None:
    rules = (ModelRule(pattern="assistant", consumer="new", as_="gemma3"),)

    (entry,) = ollama_list(rules, [Offer("new", False, Lists(), speaks_ollama=True)])

    assert (entry["name"], entry["model"], entry["size"]) == ("assistant:latest", "assistant:latest", 0)
    assert {"modified_at", "details"} < set(entry)
    assert {"family", "parameter_size", "quantization_level"} < set(entry["details"])
    assert ollama_list(rules, [Offer("new", False, Lists())]) == [], "its consumer does not have the API of Ollama"


def test_name_of_a_rule_that_hides_a_model_leaves_it_reachable_by_its_consumer() -> None:
    rules = (ModelRule(pattern="qwen3:8b", consumer="ollama", as_="gemma3:latest"),)

    found = ollama_list(rules, OFFERS)

    assert [one["name"] for one in found] == ["qwen3:8b", "gemma3:latest", "ollama/qwen3:8b"]
    assert found[0]["size"] == OLLAMA.lists.ollama[0]["size"]
    assert chosen("ollama/qwen3:8b", *rules) == Choice("ollama", "qwen3:8b")


def test_limited_client_sees_only_names_of_rules_for_its_consumers_in_the_list_of_ollama() -> None:
    other = Offer("other", True, ollama("phi:latest"), speaks_ollama=True)
    rules = (ModelRule(pattern="hidden", consumer="other"), ModelRule(pattern="own", consumer="ollama"))
    own_rules = rules_for(Client("lena", consumers=frozenset({"ollama"})), rules)

    assert [one["name"] for one in ollama_list(own_rules, [OLLAMA])] == ["own:latest", "gemma3:latest", "qwen3:8b"]
    assert [one["name"] for one in ollama_list(rules, [OLLAMA, other])][:2] == ["hidden:latest", "own:latest"]


def test_name_of_a_rule_is_found_with_the_tag_that_programs_add_or_leave_out() -> None:
    rules = (
        ModelRule(pattern="assistant", consumer="ollama", as_="gemma3"),
        ModelRule(pattern="small:latest", consumer="ollama", as_="qwen3:8b"),
        ModelRule(pattern="gpt", consumer="llama", as_="qwen3"),
        ModelRule(pattern="*", consumer="llama"),
    )

    assert chosen("assistant:latest", *rules) == Choice("ollama", "gemma3")
    assert chosen("small", *rules) == Choice("ollama", "qwen3:8b")
    assert chosen("assistant:1b", *rules) == Choice("llama", "assistant:1b")
    assert chosen("gpt:latest", *rules) == Choice("llama", "gpt:latest"), "only names of Ollama have tags"


def test_names_of_ollama_ignore_upper_and_lower_case_after_exact_ones() -> None:
    upper = Offer("upper", True, openai("Gemma3:latest"))

    assert chosen("Gemma3") == Choice("ollama", "Gemma3")
    assert chosen("QWEN3:8B") == Choice("ollama", "QWEN3:8B")
    assert chosen("Qwen3") is None, "servers of other APIs tell them apart"
    assert chosen("Gemma3:latest", offers=[OLLAMA, upper]) == Choice("upper", "Gemma3:latest")


def test_list_has_the_form_of_the_api_of_anthropic() -> None:
    found = anthropic_list(openai_list((), [LLAMA]))

    assert (found["has_more"], found["first_id"], found["last_id"]) == (False, "qwen3", "org/phi-4")
    assert found["data"][0] == {
        "type": "model",
        "id": "qwen3",
        "display_name": "qwen3",
        "created_at": "1970-01-01T00:00:00Z",
    }
    assert anthropic_list([]) == {"data": [], "has_more": False, "first_id": None, "last_id": None}
