"""Triton kernels. All maps lie in memory as (B, H, W, C), without gaps.

Rules of this module: nothing but kernels; shapes are checked and memory is taken by the modules that launch them. A
lower-case name with the annotation `tl.constexpr` is known at compile time. Every sum is fp32. Sizes of maps are not
specialised: one compilation serves all of them.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "height", "width", "out_width", "out_area", "sampling_channels"])
def deform_conv_kernel(
    x,
    sampling,
    weight,
    bias,
    y,
    rows,
    height,
    width,
    out_width,
    out_area,
    sampling_channels,
    kernel_width: tl.constexpr,
    taps: tl.constexpr,
    channels: tl.constexpr,
    outputs: tl.constexpr,
    stride_y: tl.constexpr,
    stride_x: tl.constexpr,
    padding_y: tl.constexpr,
    padding_x: tl.constexpr,
    dilation_y: tl.constexpr,
    dilation_x: tl.constexpr,
    factor: tl.constexpr,
    relu: tl.constexpr,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    block_outputs: tl.constexpr,
    precision: tl.constexpr,
):
    """One block of output pixels times one block of output channels; see `modeling.fused.deform_conv`.

    x (B, H, W, C); sampling (B, H', W', S >= 3 K): 2 K offsets, then K logits of the modulation; weight (K, C, O);
    bias (O,); y (B, H', W', O); rows = B H' W'.
    """
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    output = tl.program_id(1) * block_outputs + tl.arange(0, block_outputs)
    channel = tl.arange(0, block_channels)
    inside = row < rows
    place = row % out_area
    origin_y = (place // out_width) * stride_y - padding_y
    origin_x = (place % out_width) * stride_x - padding_x
    # 64 bits from here on: 32 images of 2048x2048 have 2^31 outputs in the decoder's last level.
    image = x + (row // out_area).to(tl.int64) * (height * width * channels)
    numbers = sampling + row.to(tl.int64) * sampling_channels
    total = tl.zeros((block_rows, block_outputs), tl.float32)
    for tap in range(taps):
        move_y = tl.load(numbers + 2 * tap, mask=inside, other=0.0).to(tl.float32)
        move_x = tl.load(numbers + 2 * tap + 1, mask=inside, other=0.0).to(tl.float32)
        logit = tl.load(numbers + 2 * taps + tap, mask=inside, other=0.0).to(tl.float32)
        modulation = factor / (1.0 + tl.exp(-logit))
        # Coordinates in fp32: half precision cannot hold a fraction of a pixel far from the origin.
        at_y = (origin_y + tap // kernel_width * dilation_y).to(tl.float32) + move_y
        at_x = (origin_x + tap % kernel_width * dilation_x).to(tl.float32) + move_x
        # What is not a number makes the result so, and reads nothing.
        modulation = tl.where((at_y == at_y) & (at_x == at_x), modulation, float("nan"))
        at_y = tl.where(at_y == at_y, at_y, -1.0)
        at_x = tl.where(at_x == at_x, at_x, -1.0)
        # Beyond a pixel outside the map all samples are zero; integers could not hold the farthest.
        at_y = tl.minimum(tl.maximum(at_y, -1.0), height.to(tl.float32))
        at_x = tl.minimum(tl.maximum(at_x, -1.0), width.to(tl.float32))
        floor_y, floor_x = tl.floor(at_y), tl.floor(at_x)
        below, right = at_y - floor_y, at_x - floor_x
        top, left = floor_y.to(tl.int32), floor_x.to(tl.int32)
        has_top, has_bottom = inside & (top >= 0) & (top < height), inside & (top < height - 1)
        has_left, has_right = (left >= 0) & (left < width), left < width - 1
        first = image + (top * width + left) * channels
        known = channel[None, :] < channels
        corner = first[:, None] + channel[None, :]
        sample = tl.load(corner, mask=(has_top & has_left)[:, None] & known, other=0.0).to(tl.float32)
        sample *= ((1.0 - below) * (1.0 - right) * modulation)[:, None]
        value = tl.load(corner + channels, mask=(has_top & has_right)[:, None] & known, other=0.0).to(tl.float32)
        sample += value * ((1.0 - below) * right * modulation)[:, None]
        corner += width * channels
        value = tl.load(corner, mask=(has_bottom & has_left)[:, None] & known, other=0.0).to(tl.float32)
        sample += value * (below * (1.0 - right) * modulation)[:, None]
        value = tl.load(corner + channels, mask=(has_bottom & has_right)[:, None] & known, other=0.0).to(tl.float32)
        sample += value * (below * right * modulation)[:, None]
        matrix = tl.load(
            weight + tap * channels * outputs + channel[:, None] * outputs + output[None, :],
            mask=(channel < channels)[:, None] & (output < outputs)[None, :],
            other=0.0,
        )
        total += tl.dot(sample.to(matrix.dtype), matrix, input_precision=precision)
    total += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    if relu:
        total = tl.where(total < 0.0, 0.0, total)  # lets what is not a number through, as torch does
    tl.store(
        y + row.to(tl.int64)[:, None] * outputs + output[None, :],
        total.to(y.dtype.element_ty),
        mask=inside[:, None] & (output < outputs)[None, :],
    )


@triton.jit(do_not_specialize=["height", "width", "down", "across", "heads"])
def window_attention_kernel(
    qkv,
    qkv_bias,
    position_bias,
    y,
    height,
    width,
    down,
    across,
    heads,
    scale,
    window: tl.constexpr,
    shift: tl.constexpr,
    head_channels: tl.constexpr,
    blocked: tl.constexpr,
    block_queries: tl.constexpr,
    block_keys: tl.constexpr,
    block_channels: tl.constexpr,
    precision: tl.constexpr,
):
    """Some queries of one head of one window against all of its keys; see `modeling.fused.window_attention`.

    qkv (B, H, W, 3 heads D), projected; qkv_bias (3 heads D,), what a padded token projects to; position_bias
    (heads, N, N), N = window^2; y (B, H, W, heads D).
    """
    tokens: tl.constexpr = window * window
    parts: tl.constexpr = (tokens + block_queries - 1) // block_queries
    part, place = tl.program_id(0) % parts, tl.program_id(0) // parts
    head = tl.program_id(1)
    image, window_y, window_x = place // (down * across), place // across % down, place % across
    tall, wide = down * window, across * window
    channels = heads * head_channels
    channel = tl.arange(0, block_channels)
    known = channel < head_channels

    query = part * block_queries + tl.arange(0, block_queries)
    query_y, query_x = window_y * window + query // window, window_x * window + query % window
    # Windows are cut from the map rolled by the shift, so the token lies `shift` further on, and round the corner.
    source_y, source_x = (query_y + shift) % tall, (query_x + shift) % wide
    query_real = (query < tokens) & (source_y < height) & (source_x < width)
    query_row = ((image * height + source_y) * width + source_x).to(tl.int64)
    query_region = ((query_y >= tall - window).to(tl.int32) + (query_y >= tall - shift).to(tl.int32)) * 3
    query_region += (query_x >= wide - window).to(tl.int32) + (query_x >= wide - shift).to(tl.int32)
    head_channel = head * head_channels + channel
    queries = tl.load(
        qkv + query_row[:, None] * (3 * channels) + head_channel[None, :],
        mask=query_real[:, None] & known[None, :],
        other=0.0,
    )
    key_bias = tl.load(qkv_bias + channels + head_channel, mask=known, other=0.0)
    value_bias = tl.load(qkv_bias + 2 * channels + head_channel, mask=known, other=0.0)

    largest = tl.full((block_queries,), float("-inf"), tl.float32)
    weights = tl.zeros((block_queries,), tl.float32)
    total = tl.zeros((block_queries, block_channels), tl.float32)
    for start in range(0, tokens, block_keys):
        key = start + tl.arange(0, block_keys)
        key_y, key_x = window_y * window + key // window, window_x * window + key % window
        from_y, from_x = (key_y + shift) % tall, (key_x + shift) % wide
        key_real = (key < tokens) & (from_y < height) & (from_x < width)
        rows = qkv + ((image * height + from_y) * width + from_x).to(tl.int64) * (3 * channels)
        places = rows[:, None] + channels + head_channel[None, :]
        present = key_real[:, None] & known[None, :]
        keys = tl.load(places, mask=present, other=0.0)
        keys = tl.where(key_real[:, None], keys, key_bias[None, :])
        values = tl.load(places + channels, mask=present, other=0.0)
        values = tl.where(key_real[:, None], values, value_bias[None, :])
        scores = tl.dot(queries, tl.trans(keys), input_precision=precision) * scale
        scores += tl.load(
            position_bias + head * tokens * tokens + query[:, None] * tokens + key[None, :],
            mask=(query < tokens)[:, None] & (key < tokens)[None, :],
            other=0.0,
        ).to(tl.float32)
        if shift:
            key_region = ((key_y >= tall - window).to(tl.int32) + (key_y >= tall - shift).to(tl.int32)) * 3
            key_region += (key_x >= wide - window).to(tl.int32) + (key_x >= wide - shift).to(tl.int32)
            scores = tl.where(query_region[:, None] != key_region[None, :], scores + blocked, scores)
        scores = tl.where((key < tokens)[None, :], scores, float("-inf"))
        higher = tl.maximum(largest, tl.max(scores, 1))
        shrink = tl.exp(largest - higher)
        share = tl.exp(scores - higher[:, None])
        weights = weights * shrink + tl.sum(share, 1)
        total = total * shrink[:, None] + tl.dot(share.to(values.dtype), values, input_precision=precision)
        largest = higher
    total = total / weights[:, None]
    tl.store(
        y + query_row[:, None] * channels + head_channel[None, :],
        total.to(y.dtype.element_ty),
        mask=query_real[:, None] & known[None, :],
    )


@triton.jit(do_not_specialize=["rows"])
def add_layer_norm_kernel(
    x,
    delta,
    weight,
    bias,
    y,
    rows,
    epsilon,
    channels: tl.constexpr,
    add: tl.constexpr,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Add a delta to the residual stream, in place, and normalise the sum; see `modeling.fused.residual`.

    x (rows, C) fp32; delta (rows, C), read where `add`; weight and bias (C,) fp32; y (rows, C).
    """
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    channel = tl.arange(0, block_channels)
    inside = (row < rows)[:, None] & (channel < channels)[None, :]
    place = row.to(tl.int64)[:, None] * channels + channel[None, :]
    value = tl.load(x + place, mask=inside, other=0.0)
    if add:
        value += tl.load(delta + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(x + place, value, mask=inside)
    mean = tl.sum(value, 1) / channels
    centred = tl.where(inside, value - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / channels
    scale = tl.load(weight + channel, mask=channel < channels, other=0.0)
    shift = tl.load(bias + channel, mask=channel < channels, other=0.0)
    normal = centred * tl.rsqrt(variance + epsilon)[:, None] * scale[None, :] + shift[None, :]
    tl.store(y + place, normal.to(y.dtype.element_ty), mask=inside)
