"""What a provider's recorded answer says, read from its own wire by the plainest code there is: text,
reasoning, tool calls, finish reasons, counted tokens, or that it failed and how.

It must not know the gateway: this is the second reading that the gateway's own is held against.
"""

import json
import re
from dataclasses import dataclass, field

USAGE = ("input", "output", "cache_read", "cache_write", "reasoning", "audio_in", "audio_out")


@dataclass
class Choice:
    text: str = ""
    reasoning: str = ""
    # Name and parsed arguments, in order.
    calls: list = field(default_factory=list)
    finish: str = ""


@dataclass
class Said:
    choices: list = field(default_factory=list)
    # Counts by the names of USAGE; None where the provider counted nothing.
    usage: dict = None
    # The status that an OpenAI client should see; 0 for a stream that was cut or failed half way.
    error: int = None


class Failed(Exception):
    """The answer is an error inside a success."""


class Unspoken(Exception):
    """The answer is in words that the gateway never asks for."""


def arguments(text):
    """Arguments as JSON; what was cut by the token limit stays text."""
    if not isinstance(text, str):
        return text
    if text.strip() in ("", "null"):
        return {}
    try:
        return json.loads(text)
    except ValueError:
        return text


def counts(**given):
    usage = {name: int(given.get(name) or 0) for name in USAGE}
    for part, whole in [("cache_read", "input"), ("audio_in", "input"), ("reasoning", "output"), ("audio_out", "output")]:
        usage[part] = min(usage[part], usage[whole])
    return usage


# --- Anthropic ---

ANTHROPIC_FINISH = {"max_tokens": "length", "model_context_window_exceeded": "length", "refusal": "content_filter"}


def anthropic_message(events):
    """The message of a stream, put together as Anthropic's documentation says."""
    message, blocks = {}, {}
    for name, event in events:
        kind = event.get("type") or name
        if kind == "message_start":
            message = dict(event["message"])
        elif kind == "content_block_start":
            blocks[event["index"]] = dict(event["content_block"])
        elif kind == "content_block_delta":
            _add(blocks[event["index"]], event["delta"])
        elif kind == "message_delta":
            message["stop_reason"] = event["delta"].get("stop_reason")
            usage = {name: count for name, count in (event.get("usage") or {}).items() if count is not None}
            prompt = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
            if not any(usage.get(name) for name in prompt):
                usage = {name: count for name, count in usage.items() if name not in prompt}
            message["usage"] = {**(message.get("usage") or {}), **usage}
        elif kind == "error":
            raise Failed(event["error"]["message"])
        elif kind == "message_stop":
            # Some files hold several answers, one after another; a call has one.
            break
    if not message.get("stop_reason"):
        raise Failed("cut")
    for block in blocks.values():
        if "partial" in block:
            block["input"] = arguments(block.pop("partial"))
    return {**message, "content": list(blocks.values())}


def _add(block, delta):
    for source, target in [("text", "text"), ("thinking", "thinking"), ("signature", "signature"), ("partial_json", "partial")]:
        if isinstance(delta.get(source), str):
            block[target] = (block.get(target) or "") + delta[source]


def anthropic(message):
    if message.get("type") == "error" or "content" not in message:
        raise Failed("not a message")
    choice = Choice()
    for block in message["content"]:
        if block["type"] == "text":
            choice.text += block["text"]
        elif block["type"] == "thinking":
            choice.reasoning += block["thinking"]
        elif block["type"] == "tool_use":
            choice.calls.append((block["name"], arguments(block["input"])))
    reason = message.get("stop_reason")
    choice.finish = ANTHROPIC_FINISH.get(reason, "stop")
    if reason == "tool_use" and choice.calls:
        choice.finish = "tool_calls"
    usage = message.get("usage")
    return Said([choice], usage and anthropic_usage(usage))


def anthropic_usage(usage):
    runs = [usage] + [run for run in usage.get("iterations") or [] if run.get("type") == "compaction"]
    total = lambda name: sum(run.get(name) or 0 for run in runs)
    read, written = total("cache_read_input_tokens"), total("cache_creation_input_tokens")
    thought = (usage.get("output_tokens_details") or {}).get("thinking_tokens")
    return counts(
        input=total("input_tokens") + read + written,
        output=total("output_tokens"),
        cache_read=read,
        cache_write=written,
        reasoning=thought,
    )


# --- Bedrock ---

BEDROCK_FINISH = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}


def converse_answer(events):
    """The whole answer of ConverseStream's events."""
    answer, blocks = {}, {}
    for name, event in events:
        block = blocks.setdefault(event.get("contentBlockIndex"), {}) if "contentBlockIndex" in event else {}
        if name.endswith("Exception"):
            raise Failed(event.get("message") or name)
        if name == "contentBlockStart":
            block.update({key: dict(value) for key, value in event["start"].items()})
        elif name == "contentBlockDelta":
            delta = event["delta"]
            if "text" in delta:
                block["text"] = block.get("text", "") + delta["text"]
            if "toolUse" in delta:
                block["toolUse"]["partial"] = block["toolUse"].get("partial", "") + delta["toolUse"]["input"]
            for key, part in (delta.get("reasoningContent") or {}).items():
                thought = block.setdefault("reasoningContent", {})
                if key == "redactedContent":
                    thought[key] = thought.get(key, "") + part
                else:
                    inner = thought.setdefault("reasoningText", {})
                    inner[key] = inner.get(key, "") + part
        elif name == "messageStop":
            answer["stopReason"] = event["stopReason"]
        elif name == "metadata":
            answer["usage"] = event.get("usage")
    if events and all(name == "chunk" for name, _ in events):
        return {}
    if "stopReason" not in answer:
        raise Failed("cut")
    for block in blocks.values():
        if "toolUse" in block:
            block["toolUse"]["input"] = arguments(block["toolUse"].pop("partial", ""))
    return {**answer, "output": {"message": {"role": "assistant", "content": list(blocks.values())}}}


def converse(answer):
    if "output" not in answer:
        raise Unspoken("InvokeModel in the older words of a model's maker; the gateway asks Converse, which such models speak")
    choice = Choice()
    for block in answer["output"]["message"]["content"]:
        choice.text += block.get("text", "")
        for cited in (block.get("citationsContent") or {}).get("content") or []:
            choice.text += cited.get("text", "")
        choice.reasoning += (block.get("reasoningContent") or {}).get("reasoningText", {}).get("text", "")
        if "toolUse" in block and block["toolUse"].get("type") != "server_tool_use":
            choice.calls.append((block["toolUse"]["name"], arguments(block["toolUse"].get("input") or {})))
    reason = answer["stopReason"]
    choice.finish = "tool_calls" if reason == "tool_use" and choice.calls else BEDROCK_FINISH.get(reason, "stop")
    usage = answer.get("usage")
    if not usage:
        return Said([choice])
    read, written = usage.get("cacheReadInputTokens") or 0, usage.get("cacheWriteInputTokens") or 0
    given = usage["inputTokens"] + read + written
    return Said([choice], counts(input=given, output=usage["outputTokens"], cache_read=read, cache_write=written))


# --- Gemini ---

GEMINI_FILTERED = {
    "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE",
    "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR",
}  # fmt: skip


def gemini_answer(chunks):
    """One answer of the chunks of a stream; calls whose arguments came in parts become whole."""
    answer, candidates = {}, {}
    for chunk in chunks:
        if "error" in chunk:
            raise Failed(chunk["error"].get("message"))
        for given in chunk.get("candidates") or []:
            candidate = candidates.setdefault(given.get("index", 0), {"content": {"role": "model", "parts": []}})
            for part in (given.get("content") or {}).get("parts") or []:
                _add_part(candidate["content"]["parts"], part)
            candidate.update({key: value for key, value in given.items() if key != "content"})
        answer.update({key: value for key, value in chunk.items() if key != "candidates"})
    if candidates:
        answer["candidates"] = [candidates[index] for index in sorted(candidates)]
    return answer


def _add_part(parts, part):
    call = part.get("functionCall")
    if call is None or "args" in call:
        parts.append(part)
        return
    if call.get("name"):
        parts.append({**part, "functionCall": {"name": call["name"], "args": {}}})
    for given in call.get("partialArgs") or []:
        value = next((given[name] for name in ("stringValue", "numberValue", "boolValue") if name in given), None)
        _put(parts[-1]["functionCall"]["args"], re.findall(r"\.([\w-]+)|\['([^']+)'\]|\[(\d+)\]", given["jsonPath"]), value)


def _put(place, path, value):
    """Puts a value where a JSON path says; pieces of one string are joined."""
    steps = [int(number) if number else name or quoted for name, quoted, number in path]
    for step, after in zip(steps, steps[1:] + [None]):
        if isinstance(place, list) and step == len(place):
            place.append(None)
        old = place[step] if isinstance(place, list) else place.get(step)
        if after is None:
            place[step] = old + value if isinstance(old, str) and isinstance(value, str) else value
        elif old is None:
            place[step] = [] if isinstance(after, int) else {}
        place = place[step]


def gemini(answer):
    if "error" in answer:
        raise Failed(answer["error"].get("message"))
    said = Said()
    for candidate in answer.get("candidates") or []:
        choice = Choice()
        for part in (candidate.get("content") or {}).get("parts") or []:
            if "functionCall" in part:
                choice.calls.append((part["functionCall"]["name"], part["functionCall"].get("args") or {}))
            elif part.get("thought"):
                choice.reasoning += part.get("text", "")
            else:
                choice.text += part.get("text", "")
        reason = candidate.get("finishReason")
        choice.finish = (
            "content_filter" if reason in GEMINI_FILTERED
            else "length" if reason == "MAX_TOKENS"
            else "tool_calls" if choice.calls
            else "stop"
        )  # fmt: skip
        said.choices.append(choice)
    if not said.choices:
        if "blockReason" not in (answer.get("promptFeedback") or {}):
            raise Failed("no candidate")
        said.choices.append(Choice(finish="content_filter"))
    usage = answer.get("usageMetadata")
    # Of a blocked prompt nothing is counted.
    if usage and ("promptTokenCount" in usage or "promptFeedback" in answer):
        audio = lambda name: sum(one.get("tokenCount", 0) for one in usage.get(name) or [] if one["modality"] == "AUDIO")
        thought = usage.get("thoughtsTokenCount") or 0
        said.usage = counts(
            input=(usage.get("promptTokenCount") or 0) + (usage.get("toolUsePromptTokenCount") or 0),
            output=(usage.get("candidatesTokenCount") or 0) + thought,
            cache_read=usage.get("cachedContentTokenCount"),
            reasoning=thought,
            audio_in=audio("promptTokensDetails"),
            audio_out=audio("candidatesTokensDetails"),
        )
    return said


# --- Cohere ---

COHERE_FINISH = {"MAX_TOKENS": "length", "ERROR_LIMIT": "length", "TOOL_CALL": "tool_calls", "ERROR_TOXIC": "content_filter"}


def cohere_answer(events):
    answer, message, blocks, calls = {}, {"tool_plan": ""}, {}, {}
    for _, event in events:
        delta = event.get("delta") or {}
        part = delta.get("message") or {}
        match event["type"]:
            case "message-start":
                answer["id"] = event.get("id")
            case "content-start" | "content-delta":
                block = blocks.setdefault(event["index"], {})
                for key, value in part["content"].items():
                    block[key] = value if key == "type" else block.get(key, "") + (value or "")
            case "tool-plan-delta":
                message["tool_plan"] += part["tool_plan"]
            case "tool-call-start":
                calls[event["index"]] = json.loads(json.dumps(part["tool_calls"]))
            case "tool-call-delta":
                function = calls[event["index"]]["function"]
                function["arguments"] = (function.get("arguments") or "") + part["tool_calls"]["function"]["arguments"]
            case "message-end":
                answer.update(finish_reason=delta["finish_reason"], usage=delta.get("usage"))
    if "finish_reason" not in answer:
        raise Failed("cut")
    message.update(content=list(blocks.values()), tool_calls=list(calls.values()))
    return {**answer, "message": message}


def cohere(answer):
    message = answer["message"]
    choice = Choice(reasoning=message.get("tool_plan") or "")
    for block in message.get("content") or []:
        choice.text += block.get("text") or ""
        choice.reasoning += block.get("thinking") or ""
    for call in message.get("tool_calls") or []:
        choice.calls.append((call["function"]["name"], arguments(call["function"].get("arguments") or "")))
    if answer["finish_reason"] in ("ERROR", "TIMEOUT"):
        raise Failed(answer["finish_reason"])
    choice.finish = COHERE_FINISH.get(answer["finish_reason"], "stop")
    usage = answer.get("usage") or {}
    tokens = usage.get("tokens") or usage.get("billed_units")
    if not tokens:
        return Said([choice])
    return Said([choice], counts(
        input=tokens.get("input_tokens"),
        output=tokens.get("output_tokens"),
        cache_read=usage.get("cached_tokens"),
        reasoning=tokens.get("reasoning_tokens"),
    ))  # fmt: skip


# --- Ollama ---


def ollama_answer(lines):
    whole = {"message": {"role": "assistant", "content": "", "thinking": "", "tool_calls": []}}
    for line in lines:
        if "error" in line:
            raise Failed(line["error"])
        part = line.get("message") or {}
        for name in ("content", "thinking"):
            whole["message"][name] += part.get(name) or ""
        whole["message"]["tool_calls"] += part.get("tool_calls") or []
        whole.update({key: value for key, value in line.items() if key != "message"})
    if not whole.get("done"):
        raise Failed("cut")
    return whole


def ollama(answer):
    if "error" in answer:
        raise Failed(answer["error"])
    message = answer["message"]
    choice = Choice(text=message.get("content") or "", reasoning=message.get("thinking") or "")
    for call in message.get("tool_calls") or []:
        choice.calls.append((call["function"]["name"], arguments(call["function"].get("arguments") or {})))
    choice.finish = "length" if answer.get("done_reason") == "length" else "tool_calls" if choice.calls else "stop"
    # A prompt that was in the cache as a whole is not counted: then the bill is not known.
    if "prompt_eval_count" not in answer:
        return Said([choice])
    return Said([choice], counts(input=answer.get("prompt_eval_count"), output=answer.get("eval_count")))
