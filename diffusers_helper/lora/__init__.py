"""LoRAs: files of every form that people have, to one inner form and back; what is known of a file; averages of files.

    lora = read_lora(path, shapes)          # shapes: of the transformer's linears
    for module, adapter in lora.adapters.items():
        weight += strength * adapter.delta(weight)

Beside a linear it acts by ``adapter.outputs(x)``, see beside.py. ``ema`` makes several files of one training their
average; ``shares``, how much each counts, needs no torch. Knows the checkpoints' transformers, and neither engine nor
requests.
"""
