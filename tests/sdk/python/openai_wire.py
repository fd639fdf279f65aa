"""What an answer in OpenAI's wire says, in whichever dialect it is spoken.

It must not know the gateway: this is the second reading that the gateway's own is held against.
"""

from said import Choice, Failed, Said, arguments, counts

FINISH = {
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "model_length": "length",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "sensitive": "content_filter",
}
BROKEN = ("error", "network_error", "insufficient_system_resource")
CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "num_cached_tokens", "cache_read_input_tokens")


def answer(chunks, is_marked):
    """One answer of the chunks of a stream; `is_marked` tells whether `[DONE]` ended it."""
    whole, choices = {}, {}
    for chunk in chunks:
        if chunk is None:
            continue
        if chunk.get("error"):
            raise Failed(chunk["error"])
        for given in chunk.get("choices") or []:
            choice = choices.setdefault(given.get("index", 0), {"message": {"role": "assistant", "content": None}})
            _add(choice["message"], given.get("delta") or {})
            choice["finish_reason"] = choice.get("finish_reason") or given.get("finish_reason")
        usage = chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage")
        whole.update({key: value for key, value in chunk.items() if key not in ("choices", "usage")})
        if usage:
            whole["usage"] = usage
    if not choices or not (is_marked or all(choice["finish_reason"] for choice in choices.values())):
        raise Failed("cut")
    for index, choice in choices.items():
        choice["index"] = index
        for place, call in enumerate(choice["message"].get("tool_calls") or []):
            call["id"] = call.get("id") or f"call_{place}"
    return {**whole, "object": "chat.completion", "choices": [choices[index] for index in sorted(choices)]}


def _add(message, delta):
    content = delta.get("content")
    if isinstance(content, list):
        message["content"] = (message["content"] or []) + content
    elif content is not None:
        old = message["content"]
        message["content"] = old + [{"type": "text", "text": content}] if isinstance(old, list) else (old or "") + content
    for name in ("reasoning_content", "reasoning", "refusal"):
        if isinstance(delta.get(name), str):
            message[name] = (message.get(name) or "") + delta[name]
    for place, part in enumerate(delta.get("tool_calls") or []):
        _add_call(message.setdefault("tool_calls", []), part.get("index", place), part)


def _add_call(calls, place, part):
    function = part.get("function") or {}
    known = [call for call in calls if call["place"] == place]
    is_new = not known or (part.get("id") and function.get("name") and part["id"] != known[-1].get("id"))
    if is_new:
        calls.append({"place": place, "id": part.get("id"), "type": "function", "function": {"name": "", "arguments": ""}})
        known = calls[-1:]
    call = known[-1]
    call["function"]["name"] += function.get("name") or ""
    given = function.get("arguments")
    call["function"]["arguments"] = given if isinstance(given, dict) else call["function"]["arguments"] + (given or "")


def read(whole):
    if whole.get("error") or not whole.get("choices"):
        raise Failed(whole.get("error"))
    said = Said()
    for given in whole["choices"]:
        message = given.get("message") or {}
        choice = Choice()
        _read_content(choice, message.get("content"))
        choice.reasoning += message.get("reasoning_content") or message.get("reasoning") or ""
        for call in message.get("tool_calls") or []:
            if call.get("function"):
                choice.calls.append((call["function"]["name"], arguments(call["function"].get("arguments") or "")))
        reason = given.get("finish_reason") or ("tool_calls" if choice.calls else "stop")
        if reason in BROKEN:
            raise Failed(reason)
        choice.finish = FINISH.get(reason, reason)
        said.choices.append(choice)
    if (whole.get("usage") or {}).get("prompt_tokens") is not None:
        said.usage = usage(whole["usage"])
    return said


def _read_content(choice, content):
    if isinstance(content, str):
        choice.text += content
    for part in content if isinstance(content, list) else []:
        if part.get("type") == "thinking":
            choice.reasoning += "".join(thought.get("text", "") for thought in part["thinking"])
        else:
            choice.text += part.get("text") or ""


def usage(given):
    prompt, completion = given["prompt_tokens"], given.get("completion_tokens") or 0
    details = given.get("prompt_tokens_details") or {}
    output = given.get("completion_tokens_details") or {}
    reasoning = output.get("reasoning_tokens") or given.get("reasoning_tokens") or 0
    # xAI, and gateways before it, count reasoning beside the completion.
    total = given.get("total_tokens")
    if reasoning and (reasoning > completion or total == prompt + completion + reasoning):
        completion += reasoning
    read = max([details.get("cached_tokens") or 0] + [given.get(name) or 0 for name in CACHED])
    written = details.get("cache_write_tokens") or given.get("cache_creation_input_tokens") or 0
    return counts(
        input=prompt,
        output=completion,
        cache_read=read,
        cache_write=written,
        reasoning=reasoning,
        audio_in=details.get("audio_tokens"),
        audio_out=output.get("audio_tokens"),
    )
