// Ollama's JavaScript client against the address in argv[3]; argv[2] is the module. Prints what it got as JSON.
const { Ollama } = await import(process.argv[2])
const client = new Ollama({ host: process.argv[3] })
const options = { temperature: 0 }
const messages = [{ role: 'user', content: 'Who are you?' }]
const ask = { model: 'phi4-mini', options }

async function joined(stream, said) {
  let text = ''
  for await (const part of await stream) text += said(part)
  return text
}

const texts = [
  (await client.chat({ ...ask, messages })).message.content,
  await joined(client.chat({ ...ask, messages, stream: true }), (part) => part.message.content),
  (await client.generate({ ...ask, prompt: messages[0].content })).response,
  await joined(client.generate({ ...ask, prompt: messages[0].content, stream: true }), (part) => part.response),
]
const steps = []
for await (const step of await client.create({ model: 'js', from: 'phi4-mini', system: 'Be brief.', stream: true })) steps.push(step.status)
const listed = (await client.list()).models.map((model) => model.name)
const shown = (await client.show({ model: 'js' })).system
const deleted = (await client.delete({ model: 'js' })).status
const refused = await client.chat({ model: 'js', messages }).catch((error) => [error.status_code, error.message])
console.log(JSON.stringify({ texts, steps, listed, shown, deleted, refused }))
